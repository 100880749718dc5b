//! Which sysctl settings this host applies at boot, in which order, from which line of which file.
//!
//! The rules are systemd-sysctl's (sysctl.d(5)): of files with one name in several directories only
//! that of the first directory counts (a link to `/dev/null` masks); the remaining files are applied
//! in the order of their names; an exact setting beats a pattern, otherwise the last one wins.
//! `/etc/sysctl.conf` itself is read by `sysctl -p` and `sysctl --system` (as the last file), and by
//! systemd only through a link such as Debian's `/etc/sysctl.d/99-sysctl.conf`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Where settings are read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SysctlPaths {
    /// Directories of `*.conf` files, the one that wins first.
    pub directories: Vec<PathBuf>,
    /// The classic single file.
    pub sysctl_conf: PathBuf,
}

impl Default for SysctlPaths {
    fn default() -> Self {
        let directories = [
            "/etc/sysctl.d",
            "/run/sysctl.d",
            "/usr/local/lib/sysctl.d",
            "/usr/lib/sysctl.d",
        ];
        Self {
            directories: directories.map(PathBuf::from).to_vec(),
            sysctl_conf: "/etc/sysctl.conf".into(),
        }
    }
}

/// One `key = value` line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The file it stands in, links resolved.
    pub file: PathBuf,
    /// Line number, from 1.
    pub line: usize,
    /// Path below `/proc/sys`, possibly a pattern.
    pub key: String,
    /// The value as written.
    pub value: String,
    /// systemd does not read this file at boot, only `sysctl -p` and `sysctl --system` do.
    pub manual_only: bool,
}

impl Assignment {
    /// `/etc/sysctl.conf:12`.
    #[must_use]
    pub fn place(&self) -> String {
        format!("{}:{}", self.file.display(), self.line)
    }

    fn is_pattern(&self) -> bool {
        self.key.contains(['*', '?', '['])
    }
}

/// All settings in the order in which they are applied. Files that cannot be read are skipped.
#[must_use]
pub fn read(paths: &SysctlPaths) -> Vec<Assignment> {
    let mut files = BTreeMap::new();
    for directory in &paths.directories {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if Path::new(&name)
                .extension()
                .is_some_and(|extension| extension == "conf")
            {
                files.entry(name).or_insert_with(|| entry.path());
            }
        }
    }
    let classic = fs::canonicalize(&paths.sysctl_conf).ok();
    let mut classic_linked = false;
    let mut assignments = Vec::new();
    for path in files.into_values() {
        let Ok(path) = fs::canonicalize(path) else {
            continue;
        };
        classic_linked |= classic.as_ref() == Some(&path);
        read_file(&path, false, &mut assignments);
    }
    if let Some(path) = classic
        && !classic_linked
    {
        read_file(&path, true, &mut assignments);
    }
    assignments
}

/// The settings that concern one of `keys` (paths below `/proc/sys` that stand for the same thing),
/// and which of them decides, as an index into them.
#[must_use]
pub fn concerning<'a>(
    assignments: &'a [Assignment],
    keys: &[&str],
) -> (Vec<&'a Assignment>, Option<usize>) {
    let matching: Vec<&Assignment> = assignments
        .iter()
        .filter(|assignment| keys.iter().any(|key| matches_pattern(&assignment.key, key)))
        .collect();
    let decides = matching
        .iter()
        .rposition(|assignment| !assignment.is_pattern())
        .or_else(|| matching.len().checked_sub(1));
    (matching, decides)
}

fn read_file(path: &Path, manual_only: bool, assignments: &mut Vec<Assignment>) {
    // Never /dev/zero and the like; /dev/null is how a file is masked.
    if !path.is_file() {
        return;
    }
    let Ok(bytes) = fs::read(path) else { return };
    for (index, line) in String::from_utf8_lossy(&bytes).lines().enumerate() {
        if let Some((key, value)) = parse_line(line) {
            let file = path.to_owned();
            assignments.push(Assignment {
                file,
                line: index + 1,
                key,
                value,
                manual_only,
            });
        }
    }
}

fn parse_line(line: &str) -> Option<(String, String)> {
    let line = line.trim();
    if line.starts_with(['#', ';']) {
        return None;
    }
    // Without a value a leading dash excludes a key from patterns: nothing is set.
    let (key, value) = line.split_once('=')?;
    let key = key.trim();
    let key = key.strip_prefix('-').unwrap_or(key).trim();
    Some((normalize(key), value.trim().to_owned()))
}

/// Dots separate unless a slash comes first; the other of the two then is a literal dot.
fn normalize(key: &str) -> String {
    match key.find(['.', '/']).and_then(|at| key.get(at..=at)) {
        Some(".") => key
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect(),
        _ => key.to_owned(),
    }
}

/// Shell patterns over path segments: `*` and `?` do not match `/`. Bracket expressions are taken
/// for a `?`, which may match too much but overlooks nothing.
fn matches_pattern(pattern: &str, path: &str) -> bool {
    let (mut patterns, mut segments) = (pattern.split('/'), path.split('/'));
    loop {
        match (patterns.next(), segments.next()) {
            (None, None) => return true,
            (Some(pattern), Some(segment)) => {
                let pattern: Vec<char> = simplify_brackets(pattern).chars().collect();
                let segment: Vec<char> = segment.chars().collect();
                if !matches_segment(&pattern, &segment) {
                    return false;
                }
            }
            _ => return false,
        }
    }
}

fn simplify_brackets(pattern: &str) -> String {
    let mut simple = String::new();
    let mut rest = pattern;
    while let Some((before, after)) = rest.split_once('[') {
        simple.push_str(before);
        simple.push('?');
        rest = after.split_once(']').map_or("", |(_, behind)| behind);
    }
    simple + rest
}

fn matches_segment(pattern: &[char], segment: &[char]) -> bool {
    match (pattern.split_first(), segment.split_first()) {
        (None, None) => true,
        (Some(('*', rest)), _) => {
            (0..=segment.len()).any(|n| segment.get(n..).is_some_and(|s| matches_segment(rest, s)))
        }
        (Some((p, rest)), Some((s, segment))) => {
            (*p == '?' || p == s) && matches_segment(rest, segment)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const FORWARD: [&str; 2] = ["net/ipv4/ip_forward", "net/ipv4/conf/all/forwarding"];

    fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, SysctlPaths) {
        let root = tempfile::tempdir().unwrap();
        let paths = SysctlPaths {
            directories: ["etc.d", "run.d", "usr.d"]
                .map(|d| root.path().join(d))
                .to_vec(),
            sysctl_conf: root.path().join("sysctl.conf"),
        };
        for directory in &paths.directories {
            fs::create_dir(directory).unwrap();
        }
        for (name, text) in files {
            let path = root.path().join(name);
            match text.strip_prefix("-> ") {
                Some(target) => symlink(target, path).unwrap(),
                None => fs::write(path, text).unwrap(),
            }
        }
        (root, paths)
    }

    /// (file name:line = value) of the settings about forwarding; the deciding one with a star.
    fn forwarding(files: &[(&str, &str)]) -> Vec<String> {
        let (_root, paths) = host(files);
        let all = read(&paths);
        let (matching, decides) = concerning(&all, &FORWARD);
        let place = |(index, a): (usize, &&Assignment)| {
            let name = a.file.file_name().unwrap().to_str().unwrap();
            let star = if decides == Some(index) { "*" } else { "" };
            let manual = if a.manual_only { " manual" } else { "" };
            format!("{name}:{} = {}{star}{manual}", a.line, a.value)
        };
        matching.iter().enumerate().map(place).collect()
    }

    #[test]
    fn the_last_file_by_name_decides_whatever_its_directory() {
        let files = [
            ("etc.d/10-a.conf", "net.ipv4.ip_forward = 0\n"),
            ("usr.d/50-b.conf", "# x\n\nnet.ipv4.ip_forward=1"),
            ("run.d/20-c.conf", "net/ipv4/ip_forward = 0"),
            ("etc.d/99-not-a-setting.txt", "net.ipv4.ip_forward = 7"),
        ];
        let expected = ["10-a.conf:1 = 0", "20-c.conf:1 = 0", "50-b.conf:3 = 1*"];
        assert_eq!(forwarding(&files), expected);
    }

    #[test]
    fn a_file_of_the_same_name_replaces_or_masks() {
        let files = [
            ("usr.d/50-a.conf", "net.ipv4.ip_forward = 0"),
            ("etc.d/50-a.conf", "net.ipv4.ip_forward = 1"),
            ("usr.d/60-b.conf", "net.ipv4.ip_forward = 0"),
            ("run.d/60-b.conf", "-> /dev/null"),
        ];
        assert_eq!(forwarding(&files), ["50-a.conf:1 = 1*"]);
    }

    #[test]
    fn the_classic_file_counts_where_it_is_linked() {
        let line = "net.ipv4.ip_forward = 0";
        let linked = [
            ("sysctl.conf", line),
            ("etc.d/50-sysctl.conf", "-> ../sysctl.conf"),
            ("etc.d/60-later.conf", "net.ipv4.ip_forward = 1"),
        ];
        assert_eq!(
            forwarding(&linked),
            ["sysctl.conf:1 = 0", "60-later.conf:1 = 1*"]
        );
        let unlinked = [
            ("sysctl.conf", line),
            ("etc.d/60-a.conf", "net.ipv4.ip_forward = 1"),
        ];
        assert_eq!(
            forwarding(&unlinked),
            ["60-a.conf:1 = 1", "sysctl.conf:1 = 0* manual"]
        );
    }

    #[test]
    fn other_spellings_of_forwarding_count_and_patterns_yield() {
        let files = [
            (
                "etc.d/10.conf",
                "  -net.ipv4.conf.all.forwarding = 0\n; net.ipv4.ip_forward = 5\n",
            ),
            (
                "etc.d/20.conf",
                "net.ipv4.conf.*.forwarding = 1\n-net.ipv4.conf.all.forwarding\n",
            ),
            (
                "etc.d/30.conf",
                "net.ipv4.conf.eth0.forwarding = 1\nnet.ipv4.conf.al[a-z].forwarding=1",
            ),
        ];
        assert_eq!(
            forwarding(&files),
            ["10.conf:1 = 0*", "20.conf:1 = 1", "30.conf:2 = 1"]
        );
    }

    #[test]
    fn keys_with_dots_in_interface_names() {
        assert_eq!(
            normalize("net.ipv4.conf.eth0/100.rp_filter"),
            "net/ipv4/conf/eth0.100/rp_filter"
        );
        assert_eq!(
            normalize("net/ipv4/conf/eth0.100/rp_filter"),
            "net/ipv4/conf/eth0.100/rp_filter"
        );
    }

    #[test]
    fn odd_files_do_no_harm() {
        let files = [
            (
                "etc.d/10.conf",
                "= 1\nnet.ipv4.ip_forward\n[\nnet.ipv4.[ = 1\nnet.ipv4.ip_forward =\n",
            ),
            ("etc.d/20.conf", "-> /nonexistent"),
            ("etc.d/30.conf", "-> /dev/zero"),
        ];
        assert_eq!(forwarding(&files), ["10.conf:5 = *"]);
        assert_eq!(
            read(&SysctlPaths {
                directories: vec![],
                sysctl_conf: "/nonexistent".into()
            }),
            []
        );
    }
}
