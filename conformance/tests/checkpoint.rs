//! Every published form of one model, opened and compared with each other.

use puna_checkpoint::{Checkpoint, Layout, open};
use std::path::PathBuf;

fn models() -> PathBuf {
    std::env::var_os("PUNA_TEST_MODELS").map(PathBuf::from).expect("set PUNA_TEST_MODELS to the folder of test models")
}

fn bard(form: &str) -> Checkpoint {
    open(&models().join("bard").join(form)).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
#[ignore = "needs the test models: set PUNA_TEST_MODELS"]
fn hugging_face() {
    let model = bard("hf");
    assert_eq!(model.layout, Layout::HuggingFace);
    assert_eq!(model.tensors().count(), 39);
    println!("{:#?} {:#?} {:?} {}", model.config, model.generation, model.tokenizer, model.tensor_bytes());
}

#[test]
#[ignore = "needs the test models: set PUNA_TEST_MODELS"]
fn gguf() {
    let model = bard("gguf/f16.gguf");
    assert_eq!(model.layout, Layout::Gguf);
    assert_eq!(model.tensors().count(), 39);
    println!("{:#?} {:#?} {}", model.config, model.generation, model.tensor_bytes());
}

#[test]
#[ignore = "needs the test models: set PUNA_TEST_MODELS"]
fn meta() {
    let model = bard("meta");
    assert_eq!(model.layout, Layout::Meta);
    assert_eq!(model.tensors().count(), 39);
    println!("{:#?} {:#?} {}", model.config, model.generation, model.tensor_bytes());
}
