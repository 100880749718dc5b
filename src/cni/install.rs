//! `tunbridge cni install`: links to this program among the plugins, and a configuration that every runtime takes.
//!
//! Everything is checked before anything is written, and each file comes by a rename. A link is ours if it leads to
//! this program, or to anything that is called tunbridge: a former version, there or not. A configuration is ours if its
//! plugins are of type `tunbridge`. Links have the path that the user knows this program by, which may be a link itself and
//! lead to another version some day.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::control::names::is_identifier;

/// Stock plugins whose names are answered to.
pub const ALIASES: [&str; 4] = ["bridge", "portmap", "bandwidth", "firewall"];

/// The plugin's own names. Its type in configurations is the first one.
pub(super) const NAMES: [&str; 2] = ["tunbridge", "tunbridge-cni"];

/// What to install, and where.
#[derive(Clone, Debug)]
pub struct Installation {
    /// Directory of plugins.
    pub plugins: PathBuf,
    /// Directory of configurations.
    pub configurations: PathBuf,
    /// Only the links are of interest.
    pub links_only: bool,
    /// Of the network.
    pub name: String,
    /// At most one per family.
    pub subnets: Vec<String>,
    /// Of [`ALIASES`].
    pub aliases: Vec<String>,
    /// The daemon's, if it is not the usual one.
    pub socket: Option<PathBuf>,
    /// Whether files of others are replaced.
    pub force: bool,
}

impl Installation {
    /// Links and writes; what was done, one line each.
    ///
    /// # Errors
    /// A name or subnet is wrong, something of others is in the way, or a file cannot be written.
    pub fn install(&self) -> anyhow::Result<Vec<String>> {
        let program = self.program()?;
        self.check()?;
        let links = self.links();
        let configuration = self.configuration();
        for link in &links {
            self.expect_ours(link, is_our_link(link, &program))?;
        }
        if let Some(configuration) = &configuration {
            self.expect_ours(configuration, is_our_configuration(configuration))?;
            self.expect_free_name(configuration)?;
        }
        let mut done = Vec::new();
        for link in &links {
            // Its directory may be the plugins' own.
            let is_file = link.file_name() == program.file_name();
            if is_file
                && program
                    .parent()
                    .is_some_and(|parent| self.is_plugins(parent))
            {
                continue;
            }
            replace(link, |temporary| {
                std::os::unix::fs::symlink(&program, temporary)
            })?;
            done.push(format!("{} -> {}", link.display(), program.display()));
        }
        if let Some(configuration) = configuration {
            let mut text = serde_json::to_string_pretty(&self.conflist())?;
            text.push('\n');
            replace(&configuration, |temporary| {
                let mut file = fs::File::create_new(temporary)?;
                file.write_all(text.as_bytes())?;
                file.sync_all()
            })?;
            done.push(configuration.display().to_string());
        }
        Ok(done)
    }

    fn check(&self) -> anyhow::Result<()> {
        if !is_identifier(&self.name) {
            bail!(
                "--name {:?}: a network's name begins with a letter or digit; dots, dashes and underscores may follow",
                self.name
            );
        }
        for subnet in &self.subnets {
            if subnet.parse::<ipnet::IpNet>().is_err() {
                bail!("--subnet {subnet:?}: give a CIDR block such as 10.1.0.0/16 or fd00:1::/64");
            }
        }
        Ok(())
    }

    fn links(&self) -> Vec<PathBuf> {
        let aliases = self.aliases.iter().map(String::as_str);
        let names = NAMES.into_iter().chain(aliases);
        names.map(|name| self.plugins.join(name)).collect()
    }

    pub(super) fn configuration(&self) -> Option<PathBuf> {
        let file = format!("10-{}.conflist", self.name);
        (!self.links_only).then(|| self.configurations.join(file))
    }

    /// libcni before 1.3 takes `cniVersion`, a later one the highest of `cniVersions`.
    fn conflist(&self) -> Value {
        let mut plugin = json!({"type": NAMES[0]});
        if !self.subnets.is_empty() {
            plugin["subnets"] = self.subnets.clone().into();
        }
        if let Some(socket) = &self.socket {
            plugin["socket"] = socket.to_string_lossy().into();
        }
        plugin["capabilities"] = json!({
            "portMappings": true, "ips": true, "mac": true, "ipRanges": true, "dns": true, "aliases": true,
            "bandwidth": true,
        });
        json!({
            "cniVersion": "1.0.0",
            "cniVersions": ["0.4.0", "1.0.0", "1.1.0"],
            "name": self.name,
            "plugins": [plugin],
        })
    }

    /// The socket that the configuration names which was installed.
    pub fn configured_socket(&self) -> Option<PathBuf> {
        let text = fs::read(self.configuration()?).ok()?;
        let list: Value = serde_json::from_slice(&text).ok()?;
        let plugins = list["plugins"].as_array()?;
        let mut sockets = plugins
            .iter()
            .filter_map(|plugin| plugin["socket"].as_str());
        sockets.next().map(PathBuf::from)
    }

    /// A runtime takes one of two configurations with the same name, and podman warns at each command.
    fn expect_free_name(&self, own: &Path) -> anyhow::Result<()> {
        let mut others = configurations(&self.configurations).into_iter();
        let other = others.find(|(path, text)| path != own && text["name"] == self.name.as_str());
        match other {
            Some((path, _)) if !self.force => bail!(
                "network {} is configured in {} already: choose another --name, or give --force to have both",
                self.name,
                path.display()
            ),
            _ => Ok(()),
        }
    }

    /// Where the user has called this program. The plugins' directory may be the place of its file, but not of that link.
    pub(super) fn program(&self) -> anyhow::Result<PathBuf> {
        let program = std::env::current_exe().context("cannot find this program's file")?;
        let called = std::env::args_os().next().map(PathBuf::from);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let known = called.and_then(|called| known_path(&called, &path, &program));
        let is_plugin =
            |known: &PathBuf| known.parent().is_some_and(|parent| self.is_plugins(parent));
        Ok(known.filter(|known| !is_plugin(known)).unwrap_or(program))
    }

    fn is_plugins(&self, directory: &Path) -> bool {
        let found = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        found(directory) == found(&self.plugins)
    }

    /// `ours`: `None` if there is nothing.
    fn expect_ours(&self, path: &Path, ours: Option<bool>) -> anyhow::Result<()> {
        if ours == Some(false) && !self.force {
            bail!(
                "{} is there and not tunbridge's: move it away, name another directory, or give --force to replace it",
                path.display()
            );
        }
        if path.is_dir() {
            bail!("{} is a directory: move it away", path.display());
        }
        Ok(())
    }
}

/// The path by which a command line names the file `program`, if that is what it leads to.
fn known_path(called: &Path, path: &OsStr, program: &Path) -> Option<PathBuf> {
    let is_program = |path: &PathBuf| {
        let found = fs::canonicalize(path).ok();
        path.is_absolute() && found.is_some() && found == fs::canonicalize(program).ok()
    };
    if called.components().count() > 1 {
        return std::path::absolute(called).ok().filter(is_program);
    }
    let mut candidates = std::env::split_paths(path).map(|directory| directory.join(called));
    candidates.find(is_program)
}

/// `None`: there is nothing.
pub(super) fn is_our_link(link: &Path, program: &Path) -> Option<bool> {
    fs::symlink_metadata(link).ok()?;
    let target = fs::canonicalize(link).ok();
    if target.is_some() && target == fs::canonicalize(program).ok() {
        return Some(true);
    }
    let points_to = fs::read_link(link).ok();
    let is_link = points_to.is_some();
    let places = [points_to, target.filter(|_| is_link)];
    let mut names = places.iter().flatten().filter_map(|path| path.file_name());
    Some(names.any(|name| {
        let is_named = name.to_str().is_some_and(is_named_tunbridge);
        is_named || Some(name) == program.file_name()
    }))
}

/// `tunbridge`, or with a version behind it.
fn is_named_tunbridge(name: &str) -> bool {
    let rest = name.strip_prefix(NAMES[0]);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '.', '_']))
}

pub(super) fn is_our_configuration(path: &Path) -> Option<bool> {
    let text = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        read => read.unwrap_or_default(),
    };
    let value: Value = serde_json::from_slice(&text).unwrap_or_default();
    let plugins = value["plugins"].as_array();
    Some(plugins.is_some_and(|plugins| !plugins.is_empty() && plugins.iter().all(is_of_our_type)))
}

fn is_of_our_type(plugin: &Value) -> bool {
    plugin["type"] == NAMES[0]
}

/// Whether a plugin of ours is called for it.
pub(super) fn needs_us(configuration: &Value) -> bool {
    let plugins = configuration["plugins"].as_array();
    is_of_our_type(configuration) || plugins.is_some_and(|all| all.iter().any(is_of_our_type))
}

/// What libcni would read in a directory, by name.
pub(super) fn configurations(directory: &Path) -> Vec<(PathBuf, Value)> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.retain(|path| {
        let extension = path.extension().and_then(OsStr::to_str);
        matches!(extension, Some("conflist" | "conf" | "json"))
    });
    paths.sort_unstable();
    let read = paths.into_iter().filter_map(|path| {
        let text = fs::read(&path).ok()?;
        Some((path, serde_json::from_slice(&text).ok()?))
    });
    read.collect()
}

/// Makes a file beside `path` and renames it.
fn replace(path: &Path, make: impl FnOnce(&Path) -> io::Result<()>) -> anyhow::Result<()> {
    let directory = path.parent().unwrap_or_else(|| Path::new("/"));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = directory.join(format!(".{name}.{}", std::process::id()));
    let written = fs::create_dir_all(directory)
        .and_then(|()| make(&temporary))
        .and_then(|()| fs::rename(&temporary, path));
    written
        .inspect_err(|_| {
            let _ = fs::remove_file(&temporary);
        })
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn installation(directory: &Path) -> Installation {
        Installation {
            plugins: directory.join("bin"),
            configurations: directory.join("net.d"),
            links_only: false,
            name: "tunbridge".to_owned(),
            subnets: vec!["10.9.0.0/16".to_owned()],
            aliases: vec!["bridge".to_owned()],
            socket: None,
            force: false,
        }
    }

    #[test]
    fn what_is_installed_can_be_installed_again_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let installation = installation(directory.path());
        for _ in 0..2 {
            assert_eq!(installation.install().unwrap().len(), 4);
        }
        let program = std::env::current_exe().unwrap();
        for name in ["tunbridge", "tunbridge-cni", "bridge"] {
            let link = directory.path().join("bin").join(name);
            assert_eq!(fs::read_link(link).unwrap(), program);
        }
        let path = directory.path().join("net.d/10-tunbridge.conflist");
        let written: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(written["cniVersions"], json!(["0.4.0", "1.0.0", "1.1.0"]));
        assert_eq!(written["plugins"][0]["type"], "tunbridge");
        assert_eq!(written["plugins"][0]["capabilities"]["bandwidth"], true);
        let removal = installation.removal().unwrap();
        assert_eq!(removal.carry_out().unwrap().len(), 4);
        for place in ["bin", "net.d"] {
            assert_eq!(
                fs::read_dir(directory.path().join(place)).unwrap().count(),
                0
            );
        }
    }

    #[test]
    fn what_is_not_ours_stays_and_nothing_is_half_done() {
        let directory = tempfile::tempdir().unwrap();
        let mut installation = installation(directory.path());
        fs::create_dir(directory.path().join("bin")).unwrap();
        let stock = directory.path().join("bin/bridge");
        fs::write(&stock, "stock").unwrap();
        let error = installation.install().unwrap_err().to_string();
        assert!(
            error.contains("bin/bridge is there and not tunbridge's"),
            "{error}"
        );
        assert_eq!(
            fs::read_dir(directory.path().join("bin")).unwrap().count(),
            1
        );
        assert!(!directory.path().join("net.d").exists());
        installation.force = true;
        installation.install().unwrap();
        assert!(fs::read_link(&stock).is_ok());
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let mut installation = installation(directory.path());
        installation.name = "../x".to_owned();
        assert!(installation.install().is_err());
        installation.name = "x".to_owned();
        installation.subnets = vec!["10.0.0.0/99".to_owned()];
        let error = installation.install().unwrap_err().to_string();
        assert!(error.starts_with("--subnet \"10.0.0.0/99\""), "{error}");
    }

    #[test]
    fn a_name_that_another_configuration_has_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let mut installation = installation(directory.path());
        installation.install().unwrap();
        for (file, refused) in [("20-other.conflist", true), ("20-other.bak", false)] {
            let path = directory.path().join("net.d").join(file);
            fs::write(
                &path,
                r#"{"name": "tunbridge", "plugins": [{"type": "bridge"}]}"#,
            )
            .unwrap();
            let installed = installation.install();
            assert_eq!(installed.is_err(), refused, "{file}");
            if let Err(error) = installed {
                let place = format!("is configured in {} already", path.display());
                assert!(error.to_string().contains(&place), "{error}");
                installation.force = true;
                installation.install().unwrap();
                installation.force = false;
            }
            fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn links_have_the_path_that_the_user_knows() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for name in ["first", "second"] {
            fs::create_dir(at(name)).unwrap();
        }
        let program = at("second/tunbridge-1.2");
        fs::write(&program, "").unwrap();
        let link = at("second/tunbridge");
        std::os::unix::fs::symlink(&program, &link).unwrap();
        let path = std::env::join_paths([at("first"), at("second")]).unwrap();
        for (called, known) in [
            ("tunbridge".into(), Some(&link)),
            (link.clone(), Some(&link)),
            (program.clone(), Some(&program)),
            ("other".into(), None),
            (at("first/tunbridge"), None),
        ] {
            assert_eq!(known_path(&called, &path, &program).as_ref(), known);
        }
        // Another program of that name comes first.
        fs::write(at("first/tunbridge"), "").unwrap();
        assert_eq!(
            known_path("tunbridge".as_ref(), &path, &program),
            Some(link)
        );
    }
}
