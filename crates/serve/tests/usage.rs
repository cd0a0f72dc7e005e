//! Usage: sums by whatever is asked, over no more than what was asked.

#![allow(clippy::unwrap_used, reason = "tests may")]

use proptest::prelude::*;
use puna_serve::database::Database;
use puna_serve::keys::KeyId;
use puna_serve::time::Time;
use puna_serve::usage::{self, By, Minute, Record, Sums};
use std::collections::BTreeMap;

const DAY: i64 = 86_400_000;

fn record() -> impl Strategy<Value = Record> {
    let tokens = || prop_oneof![0..100u32, Just(u32::MAX)];
    let key = prop::option::of(prop_oneof![Just("0123456789ab"), Just("ba9876543210")]);
    let (model, adapter) = (prop_oneof![Just("a"), Just("b")], prop::option::of(Just("tuned")));
    let endpoint = prop_oneof![Just("/v1/completions"), Just("/v1/chat/completions")];
    let status = prop_oneof![Just(200u16), Just(429), Just(500)];
    ((0..3 * DAY, key, model, adapter, endpoint), (tokens(), tokens(), tokens(), status)).prop_map(
        |((millis, key, model, adapter, endpoint), (prompt, cached, generated, status))| Record {
            time: Time::from_millis(millis),
            key: key.map(|key| key.parse().unwrap()),
            model: model.to_owned(),
            adapter: adapter.map(str::to_owned),
            endpoint: endpoint.to_owned(),
            prompt_tokens: prompt,
            cached_prompt_tokens: cached,
            generated_tokens: generated,
            finish: (status == 200).then(|| "stop".to_owned()),
            duration_ms: u32::MAX,
            status,
        },
    )
}

fn value(record: &Record, by: By) -> Option<String> {
    match by {
        By::Key => record.key.as_ref().map(KeyId::to_string),
        By::Model => Some(record.model.clone()),
        By::Adapter => record.adapter.clone(),
        By::Endpoint => Some(record.endpoint.clone()),
        By::Day => Some(format!("1970-01-0{}", record.time.millis() / DAY + 1)),
    }
}

fn sum(sums: &mut Sums, record: &Record) {
    sums.requests += 1;
    sums.failed += u64::from(record.status >= 400);
    sums.prompt_tokens += u64::from(record.prompt_tokens);
    sums.cached_prompt_tokens += u64::from(record.cached_prompt_tokens);
    sums.generated_tokens += u64::from(record.generated_tokens);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn sums_are_those_of_the_records(
        records in prop::collection::vec(record(), 0..40),
        by in prop::sample::subsequence(By::ALL.to_vec(), 0..=5),
        since in prop::option::of(0..3 * DAY),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut database = Database::open(&dir.path().join("serve.db")).unwrap();
        let (first, second) = records.split_at(records.len() / 2);
        usage::add(&mut database, first).unwrap();
        usage::add(&mut database, second).unwrap();
        let since = since.map(Time::from_millis);
        let mut expected: BTreeMap<Vec<Option<String>>, Sums> = BTreeMap::new();
        if by.is_empty() {
            expected.insert(Vec::new(), Sums::default());
        }
        let mut minutes: BTreeMap<(i64, KeyId), u64> = BTreeMap::new();
        for record in records.iter().filter(|record| since.is_none_or(|since| record.time >= since)) {
            sum(expected.entry(by.iter().map(|by| value(record, *by)).collect()).or_default(), record);
            if let Some(key) = record.key.clone() {
                let tokens = u64::from(record.prompt_tokens) + u64::from(record.generated_tokens);
                *minutes.entry((record.time.millis() / 60_000 * 60_000, key)).or_default() += tokens;
            }
        }
        let groups = usage::report(&mut database, &by, since).unwrap();
        let groups: Vec<_> = groups.into_iter().map(|group| (group.of, group.sums)).collect();
        prop_assert_eq!(groups, expected.into_iter().collect::<Vec<_>>());

        let mut found = usage::by_minute(&mut database, since.unwrap_or(Time::from_millis(0))).unwrap();
        prop_assert!(found.is_sorted_by_key(|minute| minute.time));
        found.sort_by_key(|minute| (minute.time, minute.key.clone()));
        let minute = |((time, key), tokens)| Minute { key, time: Time::from_millis(time), tokens };
        prop_assert_eq!(found, minutes.into_iter().map(minute).collect::<Vec<_>>());
    }
}

#[test]
fn tokens_have_a_price() {
    let sums = Sums {
        prompt_tokens: 2_000_000,
        cached_prompt_tokens: 1_000_000,
        generated_tokens: 500_000,
        ..Sums::default()
    };
    assert_eq!(sums.cost(3.0, 6.0), 9.0);
}
