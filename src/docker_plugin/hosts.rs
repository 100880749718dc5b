//! Names of other doors' containers in the /etc/hosts of docker's.
//!
//! In a docker container 127.0.0.11 is dockerd's resolver, which knows dockerd's containers only. Its hosts file comes
//! before that. dockerd writes it at each start, and changes single lines of it later, leaving alone what it does not
//! know; so our lines stand in a block of their own at its end. The file is bind-mounted into the container: it is written
//! in place.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{self, Read, Seek, SeekFrom, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const BEGIN: &str = "# Begin of tunbridge's names\n";
const END: &str = "# End of tunbridge's names\n";

/// Nobody's hosts file is longer.
const MAX_FILE: u64 = 4 << 20;

/// Names by address.
pub(super) type Names = BTreeMap<IpAddr, BTreeSet<String>>;

/// The file's text with these names; `None`: it says so already.
fn with_names(text: &str, names: &Names) -> Option<String> {
    let mut block = String::new();
    if !names.is_empty() {
        block.push_str(BEGIN);
        for (address, names) in names {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            // Writing to a String cannot fail.
            let _ = writeln!(block, "{address}\t{}", names.join(" "));
        }
        block.push_str(END);
    }
    let mut rest = text.to_owned();
    if let Some(begin) = rest.find(BEGIN) {
        let end = rest[begin..].find(END).map(|end| begin + end + END.len());
        rest.replace_range(begin..end.unwrap_or(rest.len()), "");
    }
    if !rest.is_empty() && !rest.ends_with('\n') && !block.is_empty() {
        rest.push('\n');
    }
    rest.push_str(&block);
    (rest != text).then_some(rest)
}

/// The whole text. The container may make its file longer at any time.
fn read(file: impl Read) -> io::Result<String> {
    let mut text = String::new();
    file.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(io::Error::other("it is too long for a hosts file"));
    }
    Ok(text)
}

/// Makes the file at `path` say these names. True if it has been changed.
pub(super) fn write(path: &Path, names: &Names) -> io::Result<bool> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no hosts file"));
    }
    let text = read(&file)?;
    let Some(new) = with_names(&text, names) else {
        return Ok(false);
    };
    file.seek(SeekFrom::Start(0))?;
    file.write_all(new.as_bytes())?;
    file.set_len(u64::try_from(new.len()).unwrap_or(u64::MAX))?;
    Ok(true)
}

/// A name that can stand in a hosts file without becoming something else.
pub(super) fn is_name(text: &str) -> bool {
    (1..=253).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        && !matches!(text, "localhost" | "host.docker.internal")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[(&str, &[&str])]) -> Names {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        list.iter()
            .map(|(address, names)| (address.parse().unwrap(), set(names)))
            .collect()
    }

    #[test]
    fn the_block_comes_changes_and_goes() {
        let text = "127.0.0.1\tlocalhost\n10.0.0.2\tweb\n";
        let one = names(&[("10.0.0.3", &["db", "db.shop"])]);
        let with = with_names(text, &one).unwrap();
        assert_eq!(with, format!("{text}{BEGIN}10.0.0.3\tdb db.shop\n{END}"),);
        assert_eq!(with_names(&with, &one), None);
        // dockerd has added a line since.
        let added = format!("{with}10.0.0.4\tcache\n");
        let two = names(&[("10.0.0.3", &["db"]), ("fd00::3", &["db"])]);
        assert_eq!(
            with_names(&added, &two).unwrap(),
            format!("{text}10.0.0.4\tcache\n{BEGIN}10.0.0.3\tdb\nfd00::3\tdb\n{END}"),
        );
        assert_eq!(
            with_names(&added, &Names::new()).unwrap(),
            format!("{text}10.0.0.4\tcache\n")
        );
        assert_eq!(with_names(text, &Names::new()), None);
    }

    #[test]
    fn broken_files_are_mended() {
        let one = names(&[("10.0.0.3", &["db"])]);
        assert_eq!(
            with_names("a", &one).unwrap(),
            format!("a\n{BEGIN}10.0.0.3\tdb\n{END}")
        );
        let torn = format!("a\n{BEGIN}10.0.0.3");
        assert_eq!(
            with_names(&torn, &one).unwrap(),
            format!("a\n{BEGIN}10.0.0.3\tdb\n{END}")
        );
    }

    #[test]
    fn it_is_written_in_place_and_never_through_a_link() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hosts");
        std::fs::write(&path, "127.0.0.1\tlocalhost\n").unwrap();
        let mounted = std::fs::File::open(&path).unwrap();
        assert!(write(&path, &names(&[("10.0.0.3", &["db"])])).unwrap());
        assert!(!write(&path, &names(&[("10.0.0.3", &["db"])])).unwrap());
        let text = io::read_to_string(mounted).unwrap();
        assert!(text.contains("10.0.0.3\tdb\n"), "{text}");
        assert!(write(&path, &Names::new()).unwrap());
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "127.0.0.1\tlocalhost\n"
        );
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(write(&link, &Names::new()).is_err());
    }

    #[test]
    fn a_file_without_end_is_left_alone() {
        assert!(read(io::repeat(b'#')).is_err());
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hosts");
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(MAX_FILE + 1).unwrap();
        assert!(write(&path, &names(&[("10.0.0.3", &["db"])])).is_err());
        assert_eq!(file.metadata().unwrap().len(), MAX_FILE + 1);
    }

    #[test]
    fn names_are_names() {
        assert!(is_name("web-1.shop") && is_name("a_b"));
        for bad in ["", "a b", "a\nb", "a\tb", "localhost", "#x", "é"] {
            assert!(!is_name(bad), "{bad:?}");
        }
    }
}
