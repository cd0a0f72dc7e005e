//! From the command line's MODEL to a session: files, memory, back-end, tokenizer.

use crate::adapter::base::{Base, Given};
use crate::builtin;
use crate::machine::Machine;
use crate::show;
use crate::vault;
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use puna_checkpoint::{Checkpoint, Config};
use puna_cpu::{Cpu, Instructions};
use puna_engine::Engine;
use puna_llama::{KvFormat, Llama, LoadOptions, Model, PAGE_LEN, kv_shape};
use puna_session::Session;
use puna_text::Tokenizer;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Tokens of one forward pass: enough that each weight's unpacking is paid by many.
pub const MAX_BATCH: usize = 512;

/// Whole contexts for which a server's cache has room at most, where nothing else is asked for.
const MANY: usize = 16;

/// Memory that is left to activations, the program and the system.
const HEADROOM: u64 = 2 << 30;

/// Which model, and how to hold it.
#[derive(Args)]
pub struct ModelArgs {
    /// A directory as published by Hugging Face or Meta, a .gguf file, a model of `puna list`, or `cria`: a small one in the
    /// program itself
    #[arg(value_parser = vault::model_parser())]
    pub model: PathBuf,
    /// Threads [default: as many as this process may run at once]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Instructions to compute with [default: the best that the processor has]
    #[arg(long, value_name = "NAME", hide_short_help = true)]
    pub instructions: Option<Instructions>,
    /// Tokens that prompt and answer may have together [default: the model's own limit, or less if memory is short]
    #[arg(long, value_name = "TOKENS")]
    pub context: Option<usize>,
    /// How keys and values are stored
    #[arg(long, value_enum, default_value_t)]
    pub kv: Kv,
    /// A LoRA adapter of the model, in PEFT's form or llama.cpp's; may be given several times, they add up
    #[arg(long = "adapter", value_name = "ADAPTER[=WEIGHT]")]
    pub adapters: Vec<Given>,
}

/// [`KvFormat`] on the command line.
#[derive(Clone, Copy, Default, ValueEnum)]
pub enum Kv {
    /// Half precision
    #[default]
    F16,
    /// Exact, twice the memory
    F32,
    /// 8 bits, half the memory
    #[value(name = "q8_0")]
    Q8_0,
}

impl From<Kv> for KvFormat {
    fn from(kv: Kv) -> KvFormat {
        match kv {
            Kv::F16 => KvFormat::F16,
            Kv::F32 => KvFormat::F32,
            Kv::Q8_0 => KvFormat::Q8_0,
        }
    }
}

/// Tokens that a model's cache is to hold, where the command line does not say.
#[derive(Clone, Copy)]
pub enum Wanted {
    /// So many, or an error.
    Exactly(usize),
    /// So many, or a half, a quarter … if memory is short.
    AtMost(usize),
}

/// A loaded model, and the context to run it with.
pub struct Loaded {
    pub model: Box<dyn Model>,
    pub context: usize,
    pub loading: Loading,
}

/// What loading took.
pub struct Loading {
    pub seconds: f64,
    /// Bytes of all weights.
    pub bytes: u64,
    /// Bytes of their copies in an order that is faster to read.
    pub repacked_bytes: u64,
}

/// Refuses keys and values that need more than the memory that is there; `option` would make them fewer.
fn expect_room(what: &str, option: &str, needed: u64, available: Option<u64>) -> Result<()> {
    match available {
        Some(available) if needed > available => bail!(
            "{what} needs {} for keys and values: expected at most {}, the available memory; lower {option} or use \
             --kv q8_0",
            show::bytes(needed),
            show::bytes(available)
        ),
        _ => Ok(()),
    }
}

impl ModelArgs {
    /// Another model, held in the same way, without adapters; its context is for the caller to say.
    pub fn with_model(&self, model: &Path) -> ModelArgs {
        ModelArgs {
            model: model.to_owned(),
            threads: self.threads,
            instructions: self.instructions,
            context: None,
            kv: self.kv,
            adapters: Vec::new(),
        }
    }

    /// Opens and checks the model's files.
    pub fn open(&self) -> Result<Checkpoint> {
        builtin::open(&self.model)
    }

    /// The machine that will compute.
    pub fn machine(&self) -> Machine {
        let cpu = Cpu::new(self.threads.map_or_else(Cpu::default_threads, usize::from));
        Machine::new(cpu.with_instructions(self.instructions()))
    }

    /// What it will compute with.
    pub fn instructions(&self) -> Instructions {
        self.instructions.unwrap_or_else(Instructions::best)
    }

    /// The context to run with: what was asked for, if the model and the memory allow it.
    fn context(&self, machine: &Machine, config: &Config, wanted: Wanted) -> Result<usize> {
        let available = machine.available();
        let bytes_at = |context| kv_shape(config, self.kv.into(), context).bytes_at(context);
        match self.context.map_or(wanted, Wanted::Exactly) {
            Wanted::Exactly(0) => bail!("context: expected at least 1 token, found 0"),
            Wanted::Exactly(context) if context > config.context_length => bail!(
                "context: expected at most {} tokens, what the model was trained for, found {context}",
                config.context_length
            ),
            Wanted::Exactly(context) => {
                expect_room(&format!("a context of {context} tokens"), "--context", bytes_at(context), available)?;
                Ok(context)
            }
            // Half of the memory at most: the weights want to stay in the other half.
            Wanted::AtMost(limit) => {
                let fits = |context: &usize| available.is_none_or(|available| bytes_at(*context) <= available / 2);
                let halves = std::iter::successors(Some(limit), |context| Some(context / 2));
                let found = halves.take_while(|context| *context > PAGE_LEN).find(fits);
                Ok(found.unwrap_or(limit.min(PAGE_LEN)))
            }
        }
    }

    /// Loads the model; `wanted` is the context where the command line asks for none.
    pub fn engine(&self, machine: &mut Machine, checkpoint: &Checkpoint, wanted: Wanted) -> Result<Engine> {
        let Loaded { model, context, .. } = self.load(machine, checkpoint, wanted)?;
        Ok(Engine::new(model, context))
    }

    /// The same, before there is an engine.
    pub fn load(&self, machine: &mut Machine, checkpoint: &Checkpoint, wanted: Wanted) -> Result<Loaded> {
        let context = self.context(machine, &checkpoint.config, wanted)?;
        self.load_with(machine, checkpoint, context, context, &[])
    }

    /// The same to answer many at once, with a cache of `cache_tokens` for all of them, or what fits half of the memory; and
    /// with adapters that requests may name.
    pub fn load_for_many(
        &self,
        machine: &mut Machine,
        checkpoint: &Checkpoint,
        cache_tokens: Option<usize>,
        named: &[Given],
    ) -> Result<Loaded> {
        let config = &checkpoint.config;
        let context = self.context(machine, config, Wanted::AtMost(config.context_length))?;
        let bytes_at = |tokens| kv_shape(config, self.kv.into(), tokens).bytes_at(tokens);
        let available = machine.available();
        let cache_tokens = match cache_tokens {
            Some(tokens) if tokens < context => {
                bail!("--cache-tokens: expected at least {context}, the context, found {tokens}")
            }
            Some(tokens) => {
                expect_room(&format!("a cache of {tokens} tokens"), "--cache-tokens", bytes_at(tokens), available)?;
                tokens
            }
            None => {
                let fits = |tokens: &usize| available.is_none_or(|available| bytes_at(*tokens) <= available / 2);
                (1..=MANY).rev().map(|n| n * context).find(fits).unwrap_or(context)
            }
        };
        self.load_with(machine, checkpoint, context, cache_tokens, named)
    }

    fn load_with(
        &self,
        machine: &mut Machine,
        checkpoint: &Checkpoint,
        context: usize,
        cache_tokens: usize,
        named: &[Given],
    ) -> Result<Loaded> {
        let base = Base::new(&self.model, checkpoint);
        let adapters = self.adapters.iter().map(|given| Ok((base.load(given)?, None)));
        let named = named.iter().zip(0..).map(|(given, id)| Ok((base.load(given)?, Some(id))));
        let adapters = adapters.chain(named).collect::<Result<Vec<_>>>()?;
        let options = LoadOptions { kv_format: self.kv.into(), cache_tokens, max_batch: MAX_BATCH };
        // Block formats are copied to an order that is faster to read, as far as there is room beside the keys and values of
        // all models; of a larger model the first layers are held in memory, and the rest comes from the file each time.
        machine.promise(kv_shape(&checkpoint.config, self.kv.into(), cache_tokens).bytes_at(cache_tokens));
        let room = machine.available().map_or(u64::MAX, |available| available.saturating_sub(HEADROOM));
        let cpu = machine.cpu().clone().with_budget(room);
        let (start, bytes) = (Instant::now(), checkpoint.tensor_bytes());
        let bar = show::byte_bar("loading", bytes);
        let mut model = Llama::load(cpu.clone(), checkpoint, options, &mut |done, _| bar.set_position(done))
            .with_context(|| self.model.display().to_string())?;
        adapters.into_iter().try_for_each(|((adapter, weight), id)| model.adapt(adapter, weight, id))?;
        bar.finish_and_clear();
        let seconds = start.elapsed().as_secs_f64();
        let loading = Loading { seconds, bytes, repacked_bytes: cpu.copied() };
        Ok(Loaded { model: Box::new(model), context, loading })
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self, checkpoint: &Checkpoint) -> Result<Tokenizer> {
        Ok(puna_session::tokenizer(checkpoint, &self.model)?)
    }

    /// A session with the model.
    pub fn session(&self, machine: &mut Machine, checkpoint: &Checkpoint) -> Result<Session> {
        let tokenizer = self.tokenizer(checkpoint)?;
        let mut stop_tokens = tokenizer.stop_tokens();
        stop_tokens.extend(&checkpoint.generation.eos);
        let wanted = Wanted::AtMost(checkpoint.config.context_length);
        Ok(Session::new(self.engine(machine, checkpoint, wanted)?, tokenizer, stop_tokens))
    }
}
