//! Writes a random-weight model and says how fast: `cargo run --release -p puna-checkpoint --example synth SHAPE FORMAT
//! OUT [LAYERS]`. `OUT` is a `.gguf` file or a directory.

use puna_checkpoint::{
    open,
    synth::{Container, Shape, write},
};
use std::{error::Error, path::Path, time::Instant};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [shape, format, out, layers @ ..] = args.as_slice() else { return Err("expected SHAPE FORMAT OUT".into()) };
    let mut shape = Shape::named(shape).ok_or("unknown shape")?;
    if let [layers] = layers {
        shape = shape.with_layers(layers.parse()?)?;
    }
    let container = if out.ends_with(".gguf") { Container::Gguf } else { Container::Safetensors };
    let start = Instant::now();
    let mut bytes = 0;
    write(&shape, format.parse()?, container, Path::new(out), 0, &mut |done, _| bytes = done)?;
    let seconds = start.elapsed().as_secs_f64();
    println!("{bytes} bytes in {seconds:.2} s, {:.0} MB/s", bytes as f64 / seconds / 1e6);
    let start = Instant::now();
    let model = open(Path::new(out))?;
    println!("opened {} tensors in {:.3} s", model.tensors().count(), start.elapsed().as_secs_f64());
    Ok(())
}
