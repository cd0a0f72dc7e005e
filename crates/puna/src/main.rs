//! `puna`: run, measure and own the Llama models. One file a verb; the only crate that names a back-end.

mod adapter;
mod batch;
mod bench;
mod builtin;
mod chat;
mod chat_format;
mod grammar;
mod home;
mod inspect;
mod key;
mod licence;
mod machine;
mod model;
mod prefix_cache;
mod prompt;
mod run;
mod sampling;
mod sandbox;
mod scale;
mod score;
mod serve;
mod served;
mod show;
mod speculate;
mod svg;
mod synth;
mod texts;
mod tokenize;
mod tokenizer;
mod tune;
mod usage;
mod vault;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Run, measure and own the Llama models.
#[derive(Parser)]
#[command(name = "puna", version, propagate_version = true, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Run(run::Args),
    Serve(serve::Args),
    Batch(batch::Args),
    Score(score::Args),
    Tokenize(tokenize::Args),
    Tokenizer(tokenizer::Args),
    ChatFormat(chat_format::Args),
    Inspect(inspect::Args),
    Synth(synth::Args),
    Bench(bench::Args),
    Adapter(adapter::Args),
    Tune(tune::Args),
    Key(key::Args),
    Usage(usage::Args),
    Pull(vault::pull::Args),
    Import(vault::import::Args),
    List(vault::list::Args),
    Show(vault::show::Args),
    Sign(vault::sign::Args),
    Verify(vault::verify::Args),
    Diff(vault::diff::Args),
    Keep(vault::keep::Args),
    Rm(vault::rm::Args),
    Gc(vault::gc::Args),
    Upstream(vault::upstream::Args),
    Terms(vault::terms::Args),
    Publish(vault::publish::Args),
    Openness(vault::openness::Args),
    #[command(name = sandbox::VERB, hide = true)]
    TemplateWorker,
    #[command(name = puna_interpreter::VERB, hide = true)]
    InterpreterWorker,
}

/// Exit code for bad input: the same as for a command line that can't be parsed.
const BAD_INPUT: u8 = 2;

fn main() -> ExitCode {
    let result = match Cli::parse().verb {
        Verb::Run(args) => run::run(args),
        Verb::Serve(args) => serve::run(args),
        Verb::Batch(args) => batch::run(args),
        Verb::Score(args) => score::run(args),
        Verb::Tokenize(args) => tokenize::run(args),
        Verb::Tokenizer(args) => tokenizer::run(args),
        Verb::ChatFormat(args) => chat_format::run(args),
        Verb::Inspect(args) => inspect::run(args),
        Verb::Synth(args) => synth::run(args),
        Verb::Bench(args) => bench::run(args),
        Verb::Adapter(args) => adapter::run(args),
        Verb::Tune(args) => tune::run(args),
        Verb::Key(args) => key::run(args),
        Verb::Usage(args) => usage::run(args),
        Verb::Pull(args) => vault::pull::run(args),
        Verb::Import(args) => vault::import::run(args),
        Verb::List(args) => vault::list::run(args),
        Verb::Show(args) => vault::show::run(args),
        Verb::Sign(args) => vault::sign::run(args),
        Verb::Verify(args) => vault::verify::run(args),
        Verb::Diff(args) => vault::diff::run(args),
        Verb::Keep(args) => vault::keep::run(args),
        Verb::Rm(args) => vault::rm::run(args),
        Verb::Gc(args) => vault::gc::run(args),
        Verb::Upstream(args) => vault::upstream::run(args),
        Verb::Terms(args) => vault::terms::run(args),
        Verb::Publish(args) => vault::publish::run(args),
        Verb::Openness(args) => vault::openness::run(args),
        Verb::TemplateWorker => sandbox::work(),
        Verb::InterpreterWorker => puna_interpreter::worker().map_err(Into::into),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has seen enough, e.g. `| head`.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", show::error(&error));
            ExitCode::from(BAD_INPUT)
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
    io.is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        super::Cli::command().debug_assert();
    }
}
