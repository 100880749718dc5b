//! Named steps at which tests end or hold a process, to see what it leaves half done.
//!
//! The variable `TUNBRIDGE_FAILPOINT` names a file that says `kill STEP` or `pause STEP`. The process that gets to that step
//! first renames the file to FILE`.reached`, so that it happens once, whoever is started again. Then it is killed, as by
//! SIGKILL; or it waits until that file is gone, at most [`LONGEST`](steps::LONGEST).
//!
//! A release build has none of this.

#[cfg(debug_assertions)]
pub use steps::reached;

/// Nothing.
#[cfg(not(debug_assertions))]
#[inline]
pub const fn reached(_step: &str) {}

#[cfg(debug_assertions)]
mod steps {
    use std::ffi::OsString;
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::time::{Duration, Instant};

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    const VARIABLE: &str = "TUNBRIDGE_FAILPOINT";

    /// A test that has failed lets nobody go on.
    pub(super) const LONGEST: Duration = Duration::from_secs(60);

    const PAUSE: Duration = Duration::from_millis(5);

    #[derive(Debug, PartialEq, Eq)]
    enum Action {
        Kill,
        Pause,
    }

    /// The process has got to `step`.
    pub fn reached(step: &str) {
        let Some(file) = std::env::var_os(VARIABLE) else {
            return;
        };
        let (file, reached) = files(file);
        match taken(&file, &reached, step) {
            Some(Action::Kill) => {
                let _ = kill(Pid::this(), Signal::SIGKILL);
            }
            Some(Action::Pause) => {
                let deadline = Instant::now() + LONGEST;
                while reached.exists() && Instant::now() < deadline {
                    std::thread::sleep(PAUSE);
                }
            }
            None => {}
        }
    }

    /// The file, and what it is called once its step is reached.
    fn files(file: OsString) -> (PathBuf, PathBuf) {
        let mut reached = file.clone();
        reached.push(".reached");
        (file.into(), reached.into())
    }

    /// What is to happen at a step, to who asks first.
    fn taken(file: &Path, reached: &Path, step: &str) -> Option<Action> {
        let text = fs::read_to_string(file).ok()?;
        let (action, wanted) = text.trim_end().split_once(' ')?;
        let action = match action {
            "kill" => Action::Kill,
            "pause" => Action::Pause,
            _ => return None,
        };
        (wanted == step && fs::rename(file, reached).is_ok()).then_some(action)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_step_is_reached_once() {
            let directory = tempfile::tempdir().unwrap();
            let (file, reached) = files(directory.path().join("failpoint").into());
            assert_eq!(taken(&file, &reached, "one"), None);
            for (text, action) in [("kill one", Action::Kill), ("pause one\n", Action::Pause)] {
                fs::write(&file, text).unwrap();
                assert_eq!(taken(&file, &reached, "other"), None);
                assert_eq!(taken(&file, &reached, "one"), Some(action));
                assert!(reached.exists());
                assert_eq!(taken(&file, &reached, "one"), None);
            }
            for text in ["", "kill", "stop one"] {
                fs::write(&file, text).unwrap();
                assert_eq!(taken(&file, &reached, "one"), None, "{text}");
            }
        }
    }
}
