//! Compiles the eBPF programs to objects that the crate embeds: steering, and the redirection of
//! DNS inside containers. clang is the only compiler with a BPF target that every supported
//! distribution ships.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Source, and the object's name in `OUT_DIR`.
const PROGRAMS: [(&str, &str); 2] = [
    ("src/steering/steering.bpf.c", "steering.bpf.o"),
    ("src/dns/redirect.bpf.c", "redirect.bpf.o"),
];
const HEADERS: [&str; 5] = [
    "src/steering/discovery.bpf.h",
    "src/steering/maps.bpf.h",
    "src/steering/owner.bpf.h",
    "src/steering/packet.bpf.h",
    "src/steering/verdict.bpf.h",
];
const INSTALL: &str = "apt-get install -y clang libbpf-dev linux-libc-dev";

fn main() {
    for header in HEADERS {
        println!("cargo::rerun-if-changed={header}");
    }
    println!("cargo::rerun-if-env-changed=CLANG");
    for (source, object) in PROGRAMS {
        println!("cargo::rerun-if-changed={source}");
        if let Err(message) = compile(source, object) {
            // `cargo::error` prints the text once, without a panic's backtrace around it.
            println!("cargo::error={message}");
        }
    }
}

fn compile(source: &str, object: &str) -> Result<(), String> {
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let out = PathBuf::from(env::var("OUT_DIR").map_err(|e| format!("OUT_DIR: {e}"))?).join(object);
    for header in ["/usr/include/bpf/bpf_helpers.h", "/usr/include/linux/bpf.h"] {
        if !Path::new(header).exists() {
            return Err(format!(
                "{header} is missing, and {source} needs it. On Debian: {INSTALL}"
            ));
        }
    }
    let mut command = Command::new(&clang);
    command.args(["-O2", "-g", "-target", "bpf", "-Wall", "-Werror"]);
    // Debian keeps <asm/types.h> in the multiarch directory, which the BPF target does not search.
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let multiarch = format!("/usr/include/{arch}-linux-gnu");
    if Path::new(&multiarch).is_dir() {
        command.args(["-idirafter", &multiarch]);
    }
    let output = command
        .args(["-c", source, "-o"])
        .arg(&out)
        .output()
        .map_err(|e| {
            format!("cannot run `{clang}` ({e}), which compiles {source}. On Debian: {INSTALL}")
        })?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "`{clang}` cannot compile {source}: {}",
        String::from_utf8_lossy(&output.stderr)
            .trim()
            .replace('\n', " | ")
    ))
}
