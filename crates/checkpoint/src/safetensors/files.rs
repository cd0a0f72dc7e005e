//! Many tensors over one file or several with an index, cut as the hub's tools cut them.

use super::writer::{Declaration, Writer};
use crate::{Error, stream::write_file};
use serde_json::json;
use std::path::Path;

/// Bytes of tensors in one file, at most, unless one tensor alone has more.
const SHARD: u64 = 5_000_000_000;

/// Writes `model.safetensors` into `dir`, or shards and then their index. `write` appends the data of the tensor of an
/// index; within a file the order is not that of the declarations.
pub(crate) fn write_files(
    dir: &Path,
    tensors: &[Declaration],
    write: &mut dyn FnMut(usize, &mut Writer) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut shards: Vec<Vec<usize>> = vec![Vec::new()];
    let (mut size, mut total) = (0u64, 0u64);
    for (i, tensor) in tensors.iter().enumerate() {
        let n = tensor.checked_bytes(dir)?;
        if size > 0 && size.saturating_add(n) > SHARD {
            shards.push(Vec::new());
            size = 0;
        }
        size = size.saturating_add(n);
        total = total.saturating_add(n);
        shards.last_mut().expect("begins with one").push(i);
    }
    let n = shards.len();
    let mut map = serde_json::Map::new();
    for (number, shard) in shards.iter_mut().enumerate() {
        let name =
            if n == 1 { "model.safetensors".into() } else { format!("model-{:05}-of-{n:05}.safetensors", number + 1) };
        // Larger elements first, so that each begins at a multiple of its size.
        shard.sort_by_key(|&i| std::cmp::Reverse(tensors[i].format.info().block_bytes));
        let declarations: Vec<Declaration> = shard.iter().map(|&i| tensors[i].clone()).collect();
        let mut writer = Writer::create(&dir.join(&name), &declarations)?;
        for &i in shard.iter() {
            write(i, &mut writer)?;
            map.insert(tensors[i].name.clone(), name.clone().into());
        }
        writer.finish()?;
    }
    if n > 1 {
        let index = json!({ "metadata": { "total_size": total }, "weight_map": map });
        write_file(&dir.join("model.safetensors.index.json"), format!("{index:#}\n").as_bytes())?;
    }
    Ok(())
}
