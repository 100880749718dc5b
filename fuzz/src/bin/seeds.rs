//! Writes the seed corpus: `cargo run --bin seeds -- DIRECTORY`.

use std::fs;
use std::path::PathBuf;

fn main() {
    let Some(directory) = std::env::args_os().nth(1).map(PathBuf::from) else {
        panic!("usage: seeds DIRECTORY");
    };
    fs::create_dir_all(&directory).expect("the directory can be made");
    for (name, input) in tunbridge::seeds::seeds() {
        fs::write(directory.join(name), input).expect("the seed can be written");
    }
}
