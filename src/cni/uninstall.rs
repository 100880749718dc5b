//! `tunbridge cni uninstall`: what [`Installation::install`] has made, and what of it is somebody else's by now.
//!
//! A file that is no link is never removed from among the plugins: it may be the stock plugin, for which there is no way
//! back. Of links that lead elsewhere `--force` takes those that have our own names, or that `--alias` names.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::Value;

use super::install::{
    ALIASES, Installation, NAMES, configurations, is_our_configuration, is_our_link, needs_us,
};

/// What is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removal {
    /// To be removed.
    pub found: Vec<PathBuf>,
    /// One sentence for everything that stays.
    pub left: Vec<String>,
}

impl Installation {
    /// Looks what there is to remove, links of all aliases whether named or not.
    ///
    /// # Errors
    /// This program cannot find its own file.
    pub fn removal(&self) -> anyhow::Result<Removal> {
        let program = self.program()?;
        let mut removal = Removal::default();
        let own = self.configuration();
        let others = configurations(&self.configurations).into_iter();
        let others = others.filter(|(path, text)| own.as_ref() != Some(path) && needs_us(text));
        let others: Vec<(PathBuf, Value)> = others.collect();
        // Who names a configuration wants that one away, and no other network broken.
        if others.is_empty() || self.links_only || self.force {
            for name in NAMES.iter().chain(&ALIASES) {
                self.judge_link(name, &program, &mut removal);
            }
        }
        if let Some(own) = &own {
            match is_our_configuration(own) {
                Some(ours) if ours || self.force => removal.found.push(own.clone()),
                Some(_) => removal.left.push(format!(
                    "left {}: not all of its plugins are of type tunbridge: --force removes it",
                    own.display()
                )),
                None => {}
            }
        }
        for (path, text) in others {
            let name = text["name"].as_str().unwrap_or_default();
            let made = format!("10-{name}.conflist");
            let way = if path.file_name().is_some_and(|file| *file == *made) {
                format!("`tunbridge cni uninstall --name {name}` removes it")
            } else {
                "remove it".to_owned()
            };
            removal.left.push(format!(
                "left {}, which calls the plugin tunbridge in {}: {way}",
                path.display(),
                self.plugins.display()
            ));
        }
        Ok(removal)
    }

    fn judge_link(&self, name: &str, program: &Path, removal: &mut Removal) {
        let link = self.plugins.join(name);
        let Ok(target) = fs::read_link(&link) else {
            return;
        };
        let is_named = NAMES.contains(&name) || self.aliases.iter().any(|alias| alias == name);
        if is_our_link(&link, program) == Some(true) || (self.force && is_named) {
            removal.found.push(link);
            return;
        }
        let flags = if NAMES.contains(&name) {
            "--force".to_owned()
        } else {
            format!("--force --alias {name}")
        };
        removal.left.push(format!(
            "left {} -> {}: it does not lead to tunbridge: {flags} removes it",
            link.display(),
            target.display()
        ));
    }

    /// What to say if there is nothing.
    pub fn nothing_found(&self) -> String {
        let links = format!("nothing of tunbridge's in {}", self.plugins.display());
        match self.configuration() {
            None => links,
            Some(_) => format!(
                "{links}, and no configuration {} in {}",
                self.name,
                self.configurations.display()
            ),
        }
    }
}

impl Removal {
    /// Removes what was found; what was done, one line each.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub fn carry_out(&self) -> anyhow::Result<Vec<String>> {
        let remove = |path: &PathBuf| {
            fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))?;
            Ok(format!("removed {}", path.display()))
        };
        self.found.iter().map(remove).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Plugins as a distribution has them, and a configuration of its own.
    fn place(directory: &Path) -> Installation {
        for name in ["bin", "net.d"] {
            fs::create_dir(directory.join(name)).unwrap();
        }
        Installation {
            plugins: directory.join("bin"),
            configurations: directory.join("net.d"),
            links_only: false,
            name: "tunbridge".to_owned(),
            subnets: Vec::new(),
            aliases: Vec::new(),
            socket: None,
            force: false,
        }
    }

    #[test]
    fn links_of_other_versions_are_ours() {
        let directory = tempfile::tempdir().unwrap();
        let installation = place(directory.path());
        let former = directory.path().join("former");
        fs::create_dir(&former).unwrap();
        for name in ["tunbridge", "tunbridge-0.1"] {
            fs::write(former.join(name), "").unwrap();
        }
        // There, renamed since, gone, and a link that is not called so and leads there.
        let targets = [
            former.join("tunbridge"),
            former.join("tunbridge-0.1"),
            "/nowhere/tunbridge".into(),
            former.join("current"),
        ];
        symlink(former.join("tunbridge"), &targets[3]).unwrap();
        let bin = &installation.plugins;
        for (name, target) in NAMES.iter().chain(&ALIASES).zip(&targets) {
            symlink(target, bin.join(name)).unwrap();
        }
        let removal = installation.removal().unwrap();
        assert_eq!(removal.left, [""; 0]);
        assert_eq!(removal.carry_out().unwrap().len(), targets.len());
        assert_eq!(fs::read_dir(bin).unwrap().count(), 0);
        // And can be replaced.
        symlink(&targets[0], bin.join("tunbridge")).unwrap();
        installation.install().unwrap();
    }

    #[test]
    fn what_is_of_others_stays_and_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let mut installation = place(directory.path());
        let at = |name: &str| directory.path().join(name);
        // Nothing at all.
        let removal = installation.removal().unwrap();
        assert_eq!(removal, Removal::default());
        let nothing = format!(
            "nothing of tunbridge's in {}, and no configuration tunbridge in {}",
            at("bin").display(),
            at("net.d").display()
        );
        assert_eq!(installation.nothing_found(), nothing);
        fs::write(at("bin/portmap"), "stock").unwrap();
        for name in ["tunbridge", "bridge"] {
            symlink("/nix/store/cni/bridge", at("bin").join(name)).unwrap();
        }
        for (file, text) in [
            (
                "10-tunbridge.conflist",
                r#"{"name": "tunbridge", "plugins": [{"type": "tunbridge"}, {"type": "tuning"}]}"#,
            ),
            (
                "10-shop.conflist",
                r#"{"name": "shop", "plugins": [{"type": "tunbridge"}]}"#,
            ),
            ("own.conf", r#"{"name": "own", "type": "tunbridge"}"#),
            (
                "podman.conflist",
                r#"{"name": "podman", "plugins": [{"type": "bridge"}]}"#,
            ),
        ] {
            fs::write(at("net.d").join(file), text).unwrap();
        }
        let removal = installation.removal().unwrap();
        assert!(removal.found.is_empty(), "{removal:?}");
        let left = |file: &str, rest: &str| format!("left {}{rest}", at(file).display());
        let elsewhere = " -> /nix/store/cni/bridge: it does not lead to tunbridge: --force";
        let links = [
            left("bin/tunbridge", &format!("{elsewhere} removes it")),
            left(
                "bin/bridge",
                &format!("{elsewhere} --alias bridge removes it"),
            ),
        ];
        let calls = format!(
            ", which calls the plugin tunbridge in {}",
            at("bin").display()
        );
        let own = left(
            "net.d/10-tunbridge.conflist",
            ": not all of its plugins are of type tunbridge: --force removes it",
        );
        let others = [
            left(
                "net.d/10-shop.conflist",
                &format!("{calls}: `tunbridge cni uninstall --name shop` removes it"),
            ),
            left("net.d/own.conf", &format!("{calls}: remove it")),
        ];
        // The plugins are others' as well.
        assert_eq!(removal.left, [&[own][..], &others].concat());
        installation.links_only = true;
        let removal = installation.removal().unwrap();
        assert!(removal.found.is_empty(), "{removal:?}");
        assert_eq!(removal.left[..2], links);
        installation.links_only = false;
        installation.force = true;
        let removal = installation.removal().unwrap();
        let found = [at("bin/tunbridge"), at("net.d/10-tunbridge.conflist")];
        assert_eq!(removal.found, found);
        installation.aliases = vec!["bridge".to_owned(), "portmap".to_owned()];
        installation.links_only = true;
        let removal = installation.removal().unwrap();
        assert_eq!(removal.found, [at("bin/tunbridge"), at("bin/bridge")]);
        removal.carry_out().unwrap();
        assert_eq!(fs::read(at("bin/portmap")).unwrap(), b"stock");
    }
}
