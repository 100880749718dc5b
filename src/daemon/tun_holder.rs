//! Who has the TUN of our name, when we cannot have it.

use std::fs;
use std::path::Path;

use anyhow::anyhow;

use crate::engine::DeviceError;

/// A process that has a TUN open.
struct Holder {
    pid: u32,
    program: String,
}

/// The error, with the process that is in the way. To remove its interface would end another daemon.
pub(super) fn explain(error: DeviceError) -> anyhow::Error {
    let DeviceError::Busy(name) = &error else {
        return error.into();
    };
    match holder(name) {
        Some(Holder { pid, program }) if program == "tunbridge" => anyhow!(
            "{name} belongs to another tunbridge daemon in this network namespace (process {pid}): there can be one; stop it, or use its socket with --socket"
        ),
        Some(Holder { pid, program }) => anyhow!(
            "interface name {name} is taken by process {pid} ({}): stop it",
            program.escape_debug()
        ),
        None => error.into(),
    }
}

/// Looks at every process. Those of other network namespaces may have interfaces of the same name.
fn holder(name: &str) -> Option<Holder> {
    let ours = fs::read_link("/proc/self/ns/net").ok()?;
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut numbers = processes
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())));
    numbers.find_map(|(pid, process): (u32, _)| {
        let is_here = fs::read_link(process.join("ns/net")).is_ok_and(|theirs| theirs == ours);
        (is_here && has_open(&process, name)).then(|| Holder {
            pid,
            program: fs::read_to_string(process.join("comm"))
                .unwrap_or_default()
                .trim_end()
                .to_owned(),
        })
    })
}

/// The kernel says of a TUN's descriptor which interface it is (`iff:`).
fn has_open(process: &Path, name: &str) -> bool {
    let descriptors = fs::read_dir(process.join("fdinfo")).into_iter().flatten();
    descriptors.flatten().any(|descriptor| {
        let text = fs::read_to_string(descriptor.path()).unwrap_or_default();
        let mut interfaces = text.lines().filter_map(|line| line.strip_prefix("iff:"));
        interfaces.any(|interface| interface.trim() == name)
    })
}
