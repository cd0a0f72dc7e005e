//! Grammars of answers, without a model: tokens are picked at random among those allowed until an answer is complete.

#![allow(clippy::unwrap_used, reason = "tests may")]

use proptest::prelude::*;
use puna_engine::constraint::{Constraint, ConstraintError, allows};
use puna_session::{Grammar, GrammarCompiler, GrammarError, ToolCalls, ToolChoice};
use puna_text::chat::{Answer, Conversation, ToolStyle, parse_tool_calls};
use puna_text::{TokenId, Tokenizer};
use rand_core::{RngCore, SeedableRng};
use rand_pcg::Pcg64Mcg;
use serde_json::{Map, Value, json};
use std::sync::{Arc, LazyLock};

/// Tokens of several bytes: what JSON and calls are made of, parts of characters, and white space to get lost in.
const WORDS: [&[u8]; 34] = [
    b"{\"",
    b"\": ",
    b"\":",
    b"\", \"",
    b"\",\"",
    b", \"",
    b"\"}",
    b"\"}}",
    b"}}",
    b"[]",
    b"{}",
    b"\"\"",
    b"  ",
    b"\n\n",
    b"{\"name\": \"",
    b"name",
    b"parameters",
    b"{\"name",
    b"; {",
    b"true",
    b"fal",
    b"nul",
    b"12",
    b"0.",
    b"-1",
    b"<function",
    b"=",
    b"</",
    b"call(",
    b".call(query=\"",
    b"\xC3\xA9",
    b"\xE2\x82",
    b"\xF0\x9F\xA6",
    b"print(",
];

/// Every byte a token, those words, and the special tokens of Llama 3.1.
fn tokenizer() -> Tokenizer {
    let bytes = (0..=u8::MAX).map(|byte| vec![byte]);
    let words = WORDS.iter().filter(|word| word.len() > 1).map(|word| word.to_vec());
    let line = |(rank, token): (usize, Vec<u8>)| format!("{} {rank}\n", base64(&token));
    let file: String = bytes.chain(words).enumerate().map(line).collect();
    Tokenizer::from_tiktoken(file.as_bytes()).unwrap()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let word = (0..3).fold(0, |word, i| word << 8 | u32::from(three.get(i).copied().unwrap_or(0)));
        for i in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * i) & 63) as usize];
            text.push(if i <= three.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

struct Material {
    tokenizer: Arc<Tokenizer>,
    compiler: GrammarCompiler,
    stops: Vec<TokenId>,
}

static MATERIAL: LazyLock<Material> = LazyLock::new(|| {
    let tokenizer = Arc::new(tokenizer());
    let stops = tokenizer.stop_tokens();
    assert_eq!(stops.len(), 3);
    Material { compiler: GrammarCompiler::new(tokenizer.clone(), &stops).unwrap(), tokenizer, stops }
});

fn ids(allowed: &[u32]) -> Vec<TokenId> {
    (0..32 * allowed.len() as TokenId).filter(|id| allows(allowed, *id)).collect()
}

/// Picks tokens at random until the answer is complete; gives its tokens without the one that ends it.
fn random_answer(constraint: &mut dyn Constraint, seed: u64) -> Vec<TokenId> {
    let Material { tokenizer, stops, .. } = &*MATERIAL;
    let mut random = Pcg64Mcg::seed_from_u64(seed);
    let mut below = |n: usize| (random.next_u64() % n as u64) as usize;
    let mut answer = Vec::new();
    loop {
        let allowed = constraint.allowed().unwrap().to_vec();
        let allowed_ids = ids(&allowed);
        assert!(allowed_ids.iter().all(|id| (*id as usize) < tokenizer.vocab_size()));
        let other = below(tokenizer.vocab_size()) as TokenId;
        if !allows(&allowed, other) {
            assert_eq!(constraint.accept(other), Err(ConstraintError::NotAllowed { id: other }));
            assert_eq!(constraint.allowed().unwrap(), allowed);
        }
        let may_stop = stops.iter().filter(|id| allows(&allowed, **id)).count();
        assert!(may_stop == 0 || may_stop == stops.len(), "{may_stop} of the tokens that end an answer");
        if may_stop > 0 && (allowed_ids.len() == stops.len() || below(3) == 0) {
            constraint.accept(stops[below(stops.len())]).unwrap();
            assert_eq!(ids(constraint.allowed().unwrap()), *stops);
            constraint.accept(stops[0]).unwrap();
            return answer;
        }
        let is_digit =
            |id: &TokenId| tokenizer.token_bytes(*id).is_some_and(|token| token.last().is_some_and(u8::is_ascii_digit));
        let after_digit = answer.last().is_some_and(is_digit);
        let starts_with = |id: &TokenId, bytes: &[u8]| bytes.contains(&tokenizer.token_bytes(*id).unwrap()[0]);
        let mut picks: Vec<TokenId> = allowed_ids.iter().copied().filter(|id| !stops.contains(id)).collect();
        // Numbers with exponents are soon larger than those who check them can hold; but an `e` after a digit may also be
        // the only way on, in a choice like "7e".
        if after_digit && !picks.iter().all(|id| starts_with(id, b"eE")) {
            picks.retain(|id| !starts_with(id, b"eE"));
        }
        // Brackets and strings have to end some day.
        let closing: Vec<TokenId> = picks.iter().copied().filter(|id| starts_with(id, b"\"]})</0")).collect();
        let picks = if !closing.is_empty() && below(5) < 3 { closing } else { picks };
        let id = picks[below(picks.len())];
        constraint.accept(id).unwrap();
        answer.push(id);
        assert!(answer.len() < 20_000, "{}", String::from_utf8_lossy(&tokenizer.decode(&answer)));
    }
}

fn random_text(grammar: &Grammar, seed: u64) -> String {
    let mut constraint = MATERIAL.compiler.compile(grammar).unwrap();
    let answer = random_answer(&mut constraint, seed);
    String::from_utf8(MATERIAL.tokenizer.decode(&answer)).unwrap()
}

/// The part of JSON Schema that the schemas here are made of, by its words.
fn is_valid(schema: &Value, value: &Value) -> bool {
    if let Some(schemas) = schema["anyOf"].as_array() {
        return schemas.iter().any(|schema| is_valid(schema, value));
    }
    if let Some(values) = schema["enum"].as_array() {
        return values.contains(value);
    }
    let at_least = |key: &str, found: f64| schema[key].as_f64().is_none_or(|bound| bound <= found);
    let at_most = |key: &str, found: f64| schema[key].as_f64().is_none_or(|bound| found <= bound);
    match schema["type"].as_str() {
        Some("null") => value.is_null(),
        Some("boolean") => value.is_boolean(),
        Some(kind @ ("integer" | "number")) => value.as_f64().is_some_and(|number| {
            let is_whole = number.fract() == 0.0;
            (is_whole || kind == "number") && at_least("minimum", number) && at_most("maximum", number)
        }),
        Some("string") => value.as_str().is_some_and(|text| {
            let n_chars = text.chars().count() as f64;
            at_least("minLength", n_chars) && at_most("maxLength", n_chars)
        }),
        Some("array") => value.as_array().is_some_and(|values| {
            let n_values = values.len() as f64;
            at_least("minItems", n_values)
                && at_most("maxItems", n_values)
                && values.iter().all(|value| is_valid(&schema["items"], value))
        }),
        Some("object") => value.as_object().is_some_and(|fields| {
            let required = schema["required"].as_array().into_iter().flatten();
            let has = |name: &Value| fields.contains_key(name.as_str().unwrap());
            let fits = |(name, value): (&String, &Value)| match schema["properties"].get(name) {
                Some(schema) => is_valid(schema, value),
                None => schema["additionalProperties"] != false,
            };
            required.into_iter().all(has) && fields.iter().all(fits)
        }),
        other => panic!("no type: {other:?}"),
    }
}

fn schemas() -> impl Strategy<Value = Value> {
    let bounded = |kind: &'static str, min: &'static str, max: &'static str, range: i64| {
        (-range..=range, 0..=range, any::<(bool, bool)>()).prop_map(move |(least, more, (has_min, has_max))| {
            let mut schema = json!({"type": kind});
            let least = if min == "minimum" { least } else { least.abs() };
            if has_min {
                schema[min] = least.into();
            }
            if has_max {
                schema[max] = (least + more).into();
            }
            schema
        })
    };
    let leaf = prop_oneof![
        Just(json!({"type": "null"})),
        Just(json!({"type": "boolean"})),
        bounded("integer", "minimum", "maximum", 1500),
        bounded("number", "minimum", "maximum", 1500),
        bounded("string", "minLength", "maxLength", 9),
        proptest::collection::vec(
            prop_oneof![any::<i32>().prop_map(Value::from), "[a-c\"\\\\\n\u{7f}é€🦙 ]{0,6}".prop_map(Value::from)],
            1..4
        )
        .prop_map(|values| json!({ "enum": values })),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        let items = (inner.clone(), 0..3u32, 0..3u32)
            .prop_map(|(items, min, more)| json!({"type": "array", "items": items, "minItems": min, "maxItems": min + more}));
        let object = (proptest::collection::vec(("[a-z\"é\\\\ ]{0,5}", inner.clone(), any::<bool>()), 0..4), any::<bool>())
            .prop_map(|(properties, is_open)| {
                let required: Vec<&String> = properties.iter().filter(|p| p.2).map(|p| &p.0).collect();
                let required = json!(required);
                let properties: Map<String, Value> = properties.into_iter().map(|p| (p.0, p.1)).collect();
                json!({"type": "object", "properties": properties, "required": required, "additionalProperties": is_open})
            });
        let any_of = proptest::collection::vec(inner, 1..3).prop_map(|schemas| json!({ "anyOf": schemas }));
        prop_oneof![items, object, any_of]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn json_fits_its_schema(schema in schemas(), seed: u64) {
        let text = random_text(&Grammar::JsonSchema(schema.clone()), seed);
        let value: Value = serde_json::from_str(&text).unwrap();
        prop_assert!(is_valid(&schema, &value), "{text}\n{schema}");
    }

    #[test]
    fn json_objects_are_objects_on_one_line(seed: u64) {
        let text = random_text(&Grammar::JsonObject, seed);
        prop_assert!(serde_json::from_str::<Map<String, Value>>(&text).is_ok(), "{text}");
        prop_assert!(!text.contains('\n'), "{text}");
    }

    #[test]
    fn a_choice_is_one_of_its_strings(options in proptest::collection::vec("\\PC{1,6}|[ab\"\\\\\n\u{7f}]{1,4}", 1..6), seed: u64) {
        let text = random_text(&Grammar::Choice(options.clone()), seed);
        prop_assert!(options.contains(&text), "{text:?}");
    }

    #[test]
    fn tool_calls_are_read_back(
        parameters in proptest::collection::vec(schemas(), 1..4), tagged: bool, parallel: bool, builtin: bool,
        choice in 0..4u8, seed: u64,
    ) {
        let mut conversation = Conversation::new(Vec::new());
        conversation.tool_style = if tagged { ToolStyle::FunctionTag } else { ToolStyle::Json };
        conversation.tools = parameters
            .iter()
            .enumerate()
            .map(|(i, schema)| {
                let schema = json!({"type": "object", "properties": {"x": schema, "y\"": {"type": "integer"}}, "required": ["x"]});
                json!({"type": "function", "function": {"name": format!("tool.{i}"), "parameters": schema}})
            })
            .collect();
        conversation.builtin_tools = builtin.then(|| vec!["brave_search".to_owned(), "code_interpreter".to_owned()]);
        let choice = match choice {
            0 => ToolChoice::Required,
            1 => ToolChoice::Named("tool.0".to_owned()),
            _ => ToolChoice::Auto,
        };
        let grammar = Grammar::ToolCalls(ToolCalls::of(&conversation, choice.clone(), parallel));
        let mut constraint = MATERIAL.compiler.compile(&grammar).unwrap();
        let ids = random_answer(&mut constraint, seed);
        let tag = MATERIAL.tokenizer.special("<|python_tag|>").unwrap();
        prop_assert!(ids.iter().skip(1).all(|id| !MATERIAL.tokenizer.is_special(*id)));
        let text = String::from_utf8(MATERIAL.tokenizer.decode(&ids)).unwrap();
        let Answer { content, tool_calls } = parse_tool_calls(&text, ids.first() == Some(&tag));
        if tool_calls.is_empty() {
            prop_assert_eq!(&choice, &ToolChoice::Auto, "{}", text);
            prop_assert_eq!(content, text);
            return Ok(());
        }
        prop_assert_eq!(content, "");
        prop_assert!(parallel || tool_calls.len() == 1, "{text}");
        for call in tool_calls {
            if let ToolChoice::Named(name) = &choice {
                prop_assert_eq!(&call.name, name);
            }
            if let Some(tool) = conversation.tools.iter().find(|tool| tool["function"]["name"] == call.name) {
                prop_assert!(is_valid(&tool["function"]["parameters"], &call.arguments), "{text}");
                continue;
            }
            prop_assert!(builtin && ids[0] == tag);
            let key = if call.name == "brave_search" { "query" } else { "code" };
            prop_assert!(["brave_search", "code_interpreter"].contains(&call.name.as_str()), "{text}");
            prop_assert!(call.arguments[key].as_str().is_some_and(|value| !value.is_empty()), "{text}");
        }
    }

    #[test]
    fn whatever_is_asked_for_ends(
        regex in "([a-c.*+?()\\[\\]|^$\\\\-]|\\{[0-9]{0,9},?[0-9]{0,9}\\}|\\\\[wdsWDSbBpP]|\\(\\?[imsx]\\)){0,60}",
        lark in "start: ([a-cA-C\"/~()\\[\\]|&*+?: <>@%{}.\n]|\n[a-cA-C]: |%json |%regex |%lark |\"a\"|/[ab]+/|~[0-9]{1,9}){0,60}",
        schema in hostile_schemas(), seed: u64,
    ) {
        for grammar in [Grammar::Regex(regex), Grammar::Lark(lark), Grammar::JsonSchema(schema)] {
            walk(&grammar, seed);
        }
    }
}

/// A few tokens, if there is a grammar at all.
fn walk(grammar: &Grammar, seed: u64) {
    let Ok(mut constraint) = MATERIAL.compiler.compile(grammar) else { return };
    let mut random = Pcg64Mcg::seed_from_u64(seed);
    for _ in 0..40 {
        // A grammar may turn out to be too much work.
        let Ok(allowed) = constraint.allowed() else { return };
        let ids = ids(allowed);
        let id = ids[(random.next_u64() % ids.len() as u64) as usize];
        if constraint.accept(id).is_err() {
            return;
        }
    }
}

/// Schemas with every keyword and any value behind it.
fn hostile_schemas() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        prop_oneof![
            Just("#"),
            Just("#/$defs/a"),
            Just("string"),
            Just("object"),
            Just("array"),
            Just("integer"),
            Just("date")
        ]
        .prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 60, 6, |inner| {
        let keyword = prop_oneof![
            "type|enum|const|anyOf|oneOf|allOf|\\$ref|\\$defs|items|prefixItems|minItems|maxItems|properties|required|format",
            "additionalProperties|patternProperties|minProperties|maxProperties|minLength|maxLength|pattern|a|x-guidance",
            "minimum|maximum|exclusiveMinimum|exclusiveMaximum|multipleOf|\\$id|\\$schema|not|if|uniqueItems",
        ];
        prop_oneof![
            3 => proptest::collection::vec((keyword, inner.clone()), 0..6).prop_map(|fields| fields.into_iter().collect()),
            1 => proptest::collection::vec(inner, 0..4).prop_map(Value::from),
        ]
    })
}

/// What is refused, and how that is said.
#[track_caller]
fn assert_refused(grammar: Grammar, expected: &str) {
    let error = MATERIAL.compiler.compile(&grammar).err().expect("it is refused").to_string();
    assert!(error.contains(expected), "{error}");
    assert!(error.chars().count() < 500 && !error.contains('\n'), "{error}");
}

#[test]
fn bombs_are_refused() {
    let parentheses = "(".repeat(60_000);
    assert_refused(Grammar::Regex(parentheses.clone()), "unclosed group");
    assert_refused(Grammar::Regex("(".repeat(30_000) + &")".repeat(30_000)), "nested");
    assert_refused(Grammar::Lark(format!("start: {parentheses}")), "at most 1000 opening parentheses, found 60000");
    let lark = format!("start: {}\"a\"{}", "(".repeat(900), ")".repeat(900));
    assert_refused(Grammar::Lark(lark), "too deeply nested");
    assert_refused(Grammar::Lark(format!("start: %json {}", "[".repeat(60_000))), "recursion limit");
    assert_refused(Grammar::Lark("start: a::0\na::_: a::incr(_)".to_owned()), "rules with parameters");
    assert_refused(Grammar::Lark("x".repeat(70_000)), "the grammar: expected at most 65536 bytes, found 70000");
    let doubled: String = (0..60).map(|i| format!("T{i}: T{0} T{0}\n", i + 1)).collect();
    assert_refused(Grammar::Lark(format!("start: T0\n{doubled}T60: \"a\"\n")), "too big");

    let nested = (0..1000).fold(json!({}), |inner, _| json!({"items": inner}));
    assert_refused(Grammar::JsonSchema(nested), "the JSON schema: expected at most 1000 levels of nesting, found 1001");
    assert_refused(Grammar::JsonSchema(json!({"enum": vec!["a".repeat(1000); 70]})), "at most 65536 bytes");
    let properties: Map<String, Value> = (0..401).map(|i| (i.to_string(), json!({}))).collect();
    assert_refused(Grammar::JsonSchema(json!({ "properties": properties })), "at most 400 properties");
    let cyclic = json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}});
    assert_refused(Grammar::JsonSchema(cyclic), "no text fits it");
    assert_refused(Grammar::JsonSchema(json!({"$ref": "#"})), "no text fits it");
    assert_refused(Grammar::JsonSchema(json!({"$ref": "http://example.com/a"})), "http://example.com/a");
    let trees = json!({"allOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}], "$defs": {
        "a": {"type": "object", "properties": {"c": {"$ref": "#/$defs/a"}}},
        "b": {"type": "object", "properties": {"c": {"$ref": "#/$defs/b"}}},
    }});
    assert_refused(Grammar::JsonSchema(trees), "stack level");
    let either =
        |i: usize| json!({"anyOf": [{"properties": {format!("a{i}"): {}}}, {"properties": {format!("b{i}"): {}}}]});
    assert_refused(Grammar::JsonSchema(json!({"allOf": (0..20).map(either).collect::<Vec<_>>()})), "too large");
    assert_refused(Grammar::JsonSchema(json!({"type": "integer", "multipleOf": 999_999_937})), "fails on it");
}

#[test]
fn as_deep_as_is_allowed() {
    let reference = |i: usize| (i.to_string(), json!({"$ref": format!("#/$defs/{}", i + 1)}));
    let last = ("1900".to_owned(), json!({"type": "null"}));
    let references: Map<String, Value> = (0..1900).map(reference).chain([last]).collect();
    let nested = |n: usize, wrap: fn(Value) -> Value| (0..n).fold(json!({"type": "integer"}), |inner, _| wrap(inner));
    for schema in [
        nested(998, |inner| json!({"type": "array", "items": inner})),
        nested(998, |inner| json!({"items": inner})),
        nested(499, |inner| json!({"type": "object", "properties": {"a": inner}, "required": ["a"]})),
        nested(499, |inner| json!({"patternProperties": {"a": inner}})),
        nested(499, |inner| json!({"allOf": [inner, {"minimum": 1}]})),
        nested(499, |inner| json!({"anyOf": [inner, {"type": "string"}]})),
        nested(499, |inner| json!({"oneOf": [inner]})),
        json!({"const": (0..998).fold(json!(1), |inner, _| json!([inner]))}),
        json!({"enum": [(0..997).fold(json!(1), |inner, _| json!({"a": inner}))]}),
        // As long a chain of references as fits into the bytes.
        json!({"$ref": "#/$defs/0", "$defs": references}),
    ] {
        let error = MATERIAL.compiler.compile(&Grammar::JsonSchema(schema.clone())).err();
        assert!(!matches!(error, Some(GrammarError::TooLarge { .. })), "{error:?}");
        walk(&Grammar::JsonSchema(schema), 4);
    }
}

#[test]
fn large_numbers_cost_little() {
    let count = 1_000_000_000u64;
    for schema in [
        json!({"type": "array", "items": {"const": 1}, "minItems": count}),
        json!({"type": "array", "items": {"type": "array", "minItems": count}, "minItems": count, "maxItems": 2 * count}),
        json!({"type": "string", "minLength": count / 2, "maxLength": count}),
        json!({"type": "string", "maxLength": u64::MAX}),
        json!({"type": "string", "pattern": "^((a{1,1000}){1,1000}){1,1000}b$"}),
        (0..300)
            .fold(json!({"type": "integer"}), |inner, _| json!({"type": "array", "items": inner, "minItems": 1000})),
        (0..300).fold(json!({"type": "integer"}), |inner, _| json!({"anyOf": [inner, {"type": "string"}]})),
    ] {
        walk(&Grammar::JsonSchema(schema), 1);
    }
    for regex in [
        "a{1000000}",
        "((a{1000}){1000}){1000}",
        "(((a|b){0,1000}){0,1000}){0,1000}c",
        "(a|b)*a(a|b){1000}",
        ".*a.{500}",
    ] {
        walk(&Grammar::Regex(regex.to_owned()), 2);
    }
    let chain: String = (0..990).map(|i| format!("r{i}: r{}\n", i + 1)).collect();
    for lark in [
        "start: (\"a\"~1000000)~1000000",
        "start: start start | \"a\" | ",
        "start: a*\na: b*\nb: \"\"",
        "start: T\nT: ~(~(/(a|b)*a(a|b){30}/)) & /.*x.*/",
        &format!("start: r0\n{chain}r990: \"a\""),
    ] {
        walk(&Grammar::Lark(lark.to_owned()), 3);
    }
}

#[test]
fn wrong_grammars_are_named() {
    assert_refused(Grammar::JsonSchema(json!([])), "the JSON schema: expected an object");
    assert_refused(Grammar::JsonSchema(json!(false)), "the JSON schema: ");
    assert_refused(Grammar::JsonSchema(json!({"type": "array", "uniqueItems": true})), "\"uniqueItems\"");
    assert_refused(Grammar::JsonSchema(json!({"type": "string", "format": "colour"})), "Unknown format: colour");
    let overlapping = json!({"oneOf": [{"type": "integer"}, {"minimum": 3, "type": "integer"}]});
    assert_refused(Grammar::JsonSchema(overlapping), "oneOf");
    assert_refused(Grammar::Regex("a\\".to_owned()), "the regular expression: ends in a backslash");
    assert_refused(Grammar::Regex("a(?=b)".to_owned()), "look-around");
    assert_refused(Grammar::Regex(String::new()), "is empty");
    assert_refused(Grammar::Lark("start: (".to_owned()), "the grammar: 1(9)");
    assert_refused(Grammar::Lark("a: \"x\"".to_owned()), "start");
    assert_refused(Grammar::Choice(Vec::new()), "the choice: expected one or more strings");
    assert_refused(Grammar::Choice(vec![String::new()]), "the choice: expected one or more strings");

    let tools = |tools: Vec<Value>, choice| {
        let conversation = Conversation { tools, ..Conversation::new(Vec::new()) };
        Grammar::ToolCalls(ToolCalls::of(&conversation, choice, false))
    };
    let tool = |name: &str, parameters: Value| json!({"function": {"name": name, "parameters": parameters}});
    assert_refused(tools(Vec::new(), ToolChoice::Auto), "tools: expected one or more");
    assert_refused(tools(vec![tool("a b", Value::Null)], ToolChoice::Auto), "tools[0].name: expected 1 to 64");
    assert_refused(
        tools(vec![tool("a", Value::Null); 2], ToolChoice::Auto),
        "tools[1].name: \"a\" is the name of another",
    );
    assert_refused(tools(vec![tool("a", json!({"type": "string"}))], ToolChoice::Auto), "tools[0].parameters");
    assert_refused(tools(vec![tool("a", Value::Null)], ToolChoice::Named("b".to_owned())), "none is called \"b\"");
    let deep = (0..1000).fold(json!({}), |inner, _| json!({"items": inner}));
    assert_refused(tools(vec![tool("a", deep)], ToolChoice::Auto), "tools[0].parameters: expected at most 1000 levels");
    let large = json!({"description": "x".repeat(60_000)});
    let many = (0..5).map(|i| tool(&format!("t{i}"), large.clone())).collect();
    assert_refused(tools(many, ToolChoice::Auto), "the schemas of all tools: expected at most 262144 bytes");
}

#[test]
fn a_response_format_is_read() {
    let read = |format: Value| Grammar::from_response_format(&format);
    assert_eq!(read(json!({"type": "text"})), Ok(None));
    assert_eq!(read(json!({"type": "json_object"})), Ok(Some(Grammar::JsonObject)));
    let format =
        json!({"type": "json_schema", "json_schema": {"name": "n", "strict": true, "schema": {"type": "null"}}});
    assert_eq!(read(format), Ok(Some(Grammar::JsonSchema(json!({"type": "null"})))));
    for wrong in
        [json!({}), json!(3), json!({"type": "xml"}), json!({"type": "json_schema", "json_schema": {"name": "n"}})]
    {
        assert!(matches!(read(wrong), Err(GrammarError::Invalid { .. })));
    }
}

#[test]
fn regular_expressions_match_as_a_whole() {
    for seed in 0..40 {
        let date = random_text(&Grammar::Regex(r"[12]\d{3}-(0[1-9]|1[0-2])/é+".to_owned()), seed);
        let (year, rest) = date.split_once('-').unwrap();
        let (month, end) = rest.split_once('/').unwrap();
        // A digit is one in any script.
        assert!(year.chars().count() == 4 && year.starts_with(['1', '2']), "{date}");
        assert!((1..=12).contains(&month.parse::<u8>().unwrap()), "{date}");
        assert!(!end.is_empty() && end.chars().all(|c| c == 'é'), "{date}");
    }
}

#[test]
fn grammars_of_lark_are_followed() {
    let grammar = Grammar::Lark("start: sum\nsum: term (\"+\" term)*\nterm: /[0-9]+/ | \"(\" sum \")\"".to_owned());
    for seed in 0..40 {
        let text = random_text(&grammar, seed);
        let depth = text.chars().try_fold(0u32, |depth, c| match c {
            '(' => Some(depth + 1),
            ')' => depth.checked_sub(1),
            _ => Some(depth),
        });
        assert_eq!(depth, Some(0), "{text}");
        assert!(text.chars().all(|c| c.is_ascii_digit() || "+()".contains(c)), "{text}");
        assert!(
            !text.contains("()") && !text.contains("++") && !text.starts_with('+') && !text.ends_with('+'),
            "{text}"
        );
    }
}

#[test]
fn calls_are_written_as_the_prompt_says() {
    let mut conversation = Conversation::new(Vec::new());
    let schema = json!({"type": "object", "properties": {"a": {"const": 1}, "b": {"const": "x"}}, "required": ["a", "b"],
        "additionalProperties": false});
    conversation.tools = vec![json!({"type": "function", "function": {"name": "f", "parameters": schema}})];
    let text = |conversation: &Conversation| {
        random_text(&Grammar::ToolCalls(ToolCalls::of(conversation, ToolChoice::Required, false)), 5)
    };
    assert_eq!(text(&conversation), r#"{"name": "f", "parameters": {"a": 1, "b": "x"}}"#);
    conversation.tool_style = ToolStyle::FunctionTag;
    assert_eq!(text(&conversation), r#"<function=f>{"a": 1, "b": "x"}</function>"#);
}

/// How much of a text is allowed, in bytes given one by one.
fn allowed_part(grammar: &Grammar, python_tag: bool, text: &str) -> usize {
    let mut constraint = MATERIAL.compiler.compile(grammar).unwrap();
    if python_tag {
        constraint.accept(MATERIAL.tokenizer.special("<|python_tag|>").unwrap()).unwrap();
    }
    text.bytes().take_while(|byte| constraint.accept(u32::from(*byte)).is_ok()).count()
}

#[test]
fn text_does_not_turn_into_a_call() {
    let mut conversation = Conversation::new(Vec::new());
    conversation.tools = vec![json!({"function": {"name": "f"}})];
    conversation.builtin_tools = Some(vec!["code_interpreter".to_owned()]);
    let grammar = Grammar::ToolCalls(ToolCalls::of(&conversation, ToolChoice::Auto, true));
    let whole = |python_tag, text: &str| assert_eq!(allowed_part(&grammar, python_tag, text), text.len(), "{text}");
    let part = |python_tag, text: &str, part: &str| {
        assert_eq!(text.get(..allowed_part(&grammar, python_tag, text)), Some(part));
    };
    whole(false, " An answer: {\"name\": \"g\"} <functions> [1]");
    whole(false, r#"{"name": "f", "parameters": {}}; {"name": "f", "parameters": {}}"#);
    part(false, " An answer <function=g>", " An answer <function");
    part(false, r#"{"name": "g""#, r#"{"name": ""#);
    part(false, r#"{"name": "f", "parameters": {"a": 1"#, r#"{"name": "f", "parameters": {"#);
    part(false, " [1]", " ");
    whole(true, "print(f.call(1), [1])");
    part(true, "g.call(query=\"x\")", "g.call");
    part(true, " [1]", " ");
    part(true, "a = 1 <function=g>{}", "a = 1 <function");
}

#[test]
fn copies_share_nothing() {
    let mut first = MATERIAL.compiler.compile(&Grammar::Choice(vec!["ab".to_owned(), "cd".to_owned()])).unwrap();
    let mut second = first.clone();
    let id = |text: &str| MATERIAL.tokenizer.encode(text)[0];
    first.accept(id("a")).unwrap();
    second.accept(id("c")).unwrap();
    assert_eq!(ids(first.allowed().unwrap()), [id("b")]);
    assert_eq!(ids(second.allowed().unwrap()), [id("d")]);
}

#[test]
fn white_space_is_no_way_out() {
    let grammar = Grammar::JsonSchema(json!({"type": "array", "items": {"type": "integer"}}));
    let mut constraint = MATERIAL.compiler.compile(&grammar).unwrap();
    for id in MATERIAL.tokenizer.encode("[1, 2") {
        constraint.accept(id).unwrap();
    }
    let space = MATERIAL.tokenizer.encode(" ")[0];
    assert_eq!(constraint.accept(space), Err(ConstraintError::NotAllowed { id: space }));
    let comma = MATERIAL.tokenizer.encode(",")[0];
    constraint.accept(comma).unwrap();
    constraint.accept(space).unwrap();
    assert_eq!(constraint.accept(space), Err(ConstraintError::NotAllowed { id: space }));
}

#[test]
fn a_vocabulary_needs_a_token_that_ends() {
    let compile =
        |stops: &[TokenId]| GrammarCompiler::new(MATERIAL.tokenizer.clone(), stops).err().unwrap().to_string();
    assert_eq!(compile(&[]), "the vocabulary: no token ends an answer; answers can't be constrained");
    assert!(compile(&[1 << 20]).contains("the stop token 1048576"));
}
