//! What the user should know beside what `cni install` has done.

use std::os::unix::net::UnixStream;
use std::path::Path;

/// Where podman looks for plugins, in this order.
const PODMAN: [&str; 5] = [
    "/usr/local/libexec/cni",
    "/usr/libexec/cni",
    "/usr/local/lib/cni",
    "/usr/lib/cni",
    "/opt/cni/bin",
];

/// One line each.
pub(super) fn notes(directory: &Path, aliases: &[String], socket: &Path) -> Vec<String> {
    let order = PODMAN.map(Path::new);
    let mut notes: Vec<String> = hidden(&order, directory, aliases).into_iter().collect();
    if UnixStream::connect(socket).is_err() {
        notes.push(format!(
            "note: no daemon listens at {} yet: start it with `systemctl enable --now tunbridge` or `tunbridge daemon`",
            socket.display()
        ));
    }
    notes
}

/// A plugin of the same name that is found before ours.
fn hidden(order: &[&Path], directory: &Path, aliases: &[String]) -> Option<String> {
    let position = order.iter().position(|known| *known == directory)?;
    let before = order[..position].iter();
    let mut others = before.flat_map(|other| aliases.iter().map(|alias| other.join(alias)));
    let other = others.find(|other| other.exists())?;
    Some(format!(
        "note: podman finds {} before {}: give --dir {}, or put {} first in cni_plugin_dirs of containers.conf",
        other.display(),
        directory.join(other.file_name()?).display(),
        order.first()?.display(),
        directory.display()
    ))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_plugin_that_is_found_first_is_named() {
        let root = tempfile::tempdir().unwrap();
        let places: Vec<_> = ["first", "stock", "ours"]
            .iter()
            .map(|name| root.path().join(name))
            .collect();
        let order: Vec<&Path> = places.iter().map(AsRef::as_ref).collect();
        fs::create_dir(&places[1]).unwrap();
        fs::write(places[1].join("portmap"), "").unwrap();
        let aliases = ["bridge", "portmap"].map(str::to_owned);
        let note = hidden(&order, order[2], &aliases).unwrap();
        assert!(note.contains("stock/portmap before "), "{note}");
        assert!(
            note.contains(&format!("give --dir {},", order[0].display())),
            "{note}"
        );
        assert_eq!(hidden(&order, order[0], &aliases), None);
        assert_eq!(hidden(&order, order[2], &aliases[..1]), None);
        assert_eq!(hidden(&order[..2], order[2], &aliases), None);
    }

    #[test]
    fn that_no_daemon_listens_is_said() {
        let root = tempfile::tempdir().unwrap();
        let socket = root.path().join("sock");
        let said = notes(root.path(), &[], &socket);
        assert!(
            said[0].starts_with("note: no daemon listens at "),
            "{said:?}"
        );
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(notes(root.path(), &[], &socket).is_empty());
    }
}
