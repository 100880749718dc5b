//! The one binary: daemon and command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    tunbridge::cli::main(std::env::args_os())
}
