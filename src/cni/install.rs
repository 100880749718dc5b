//! `tunbridge cni install`: links to this program among the plugins, and a configuration that every runtime takes.
//!
//! Everything is checked before anything is written, and each file comes by a rename. A link is ours if it leads to
//! this program; a configuration is ours if its plugins are of type `tunbridge`.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::control::names::is_identifier;

/// Stock plugins whose names are answered to.
pub const ALIASES: [&str; 4] = ["bridge", "portmap", "bandwidth", "firewall"];

/// The plugin's own names. Its type in configurations is the first one.
const NAMES: [&str; 2] = ["tunbridge", "tunbridge-cni"];

/// What to install, and where.
#[derive(Clone, Debug)]
pub struct Installation {
    /// Directory of plugins.
    pub plugins: PathBuf,
    /// Directory of configurations; `None`: none is written.
    pub configurations: Option<PathBuf>,
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
        let program = std::env::current_exe().context("cannot find this program's file")?;
        self.check()?;
        let links = self.links();
        let configuration = self.configuration();
        for link in &links {
            self.expect_ours(link, is_our_link(link, &program))?;
        }
        if let Some(configuration) = &configuration {
            self.expect_ours(configuration, is_our_configuration(configuration))?;
        }
        let mut done = Vec::new();
        for link in &links {
            // Its directory may be the plugins' own.
            if *link == program {
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

    /// Removes what is ours of what [`Self::install`] makes, its aliases whether named or not.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub fn uninstall(&self) -> anyhow::Result<Vec<String>> {
        let program = std::env::current_exe().context("cannot find this program's file")?;
        let names = NAMES.iter().chain(&ALIASES);
        let links = names.map(|name| self.plugins.join(name));
        let links =
            links.filter(|link| is_our_link(link, &program) == Some(true) && *link != program);
        let configuration = self.configuration();
        let configuration = configuration.filter(|path| is_our_configuration(path) == Some(true));
        let mut done = Vec::new();
        for path in links.chain(configuration) {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            done.push(format!("removed {}", path.display()));
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

    fn configuration(&self) -> Option<PathBuf> {
        let directory = self.configurations.as_ref()?;
        Some(directory.join(format!("10-{}.conflist", self.name)))
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

fn is_our_link(link: &Path, program: &Path) -> Option<bool> {
    fs::symlink_metadata(link).ok()?;
    let target = fs::canonicalize(link).ok();
    // A link to where a former version was leads nowhere.
    let points_to = fs::read_link(link).ok();
    let was_ours =
        target.is_none() && points_to.is_some_and(|to| to.file_name() == program.file_name());
    Some(was_ours || target == fs::canonicalize(program).ok())
}

fn is_our_configuration(path: &Path) -> Option<bool> {
    let text = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        read => read.unwrap_or_default(),
    };
    let value: Value = serde_json::from_slice(&text).unwrap_or_default();
    let plugins = value["plugins"].as_array();
    Some(plugins.is_some_and(|plugins| {
        !plugins.is_empty() && plugins.iter().all(|plugin| plugin["type"] == NAMES[0])
    }))
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
            configurations: Some(directory.join("net.d")),
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
        assert_eq!(installation.uninstall().unwrap().len(), 4);
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
        assert_eq!(installation.uninstall().unwrap(), [""; 0]);
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
}
