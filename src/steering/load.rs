//! Loads the object that `build.rs` compiled, or says in one sentence why it cannot.

use std::{fs, io};

use aya::programs::{ProgramError, SchedClassifier};
use aya::{Ebpf, EbpfError, EbpfLoader};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};

use super::attach::Program;
use super::{OLDEST_KERNEL, SteeringError};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steering.bpf.o"));

/// Since Linux 5.11 maps are charged to the memory control group, not to `RLIMIT_MEMLOCK`.
const NO_MEMLOCK_CHARGE: (u32, u32) = (5, 11);

/// Loads the maps and every program; attaches nothing.
pub(super) fn load() -> Result<Ebpf, SteeringError> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let version = check_release(&release)?;
    if version.is_none_or(|version| version < NO_MEMLOCK_CHARGE) {
        // If it fails, loading does, and says so.
        let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
    }
    let mut object = EbpfLoader::new().load(OBJECT).map_err(object_error)?;
    for program in Program::ALL {
        program.of(&mut object)?.load().map_err(|source| {
            if is_permission(&source) {
                return SteeringError::NoPermission;
            }
            SteeringError::Verifier {
                program: program.name(),
                source: Box::new(source),
            }
        })?;
    }
    Ok(object)
}

impl Program {
    /// This program in the loaded object.
    pub(super) fn of(self, object: &mut Ebpf) -> Result<&mut SchedClassifier, SteeringError> {
        object
            .program_mut(self.name())
            .and_then(|program| program.try_into().ok())
            .ok_or(SteeringError::Missing(self.name()))
    }
}

fn object_error(error: EbpfError) -> SteeringError {
    let mut source: Option<&dyn std::error::Error> = Some(&error);
    while let Some(cause) = source {
        if cause.downcast_ref().is_some_and(is_permission_io) {
            return SteeringError::NoPermission;
        }
        source = cause.source();
    }
    SteeringError::Load(Box::new(error))
}

/// Whether the kernel refused for lack of capabilities (and not for what the program does, which
/// some checks of the verifier report with the same number, but with a log).
fn is_permission(error: &ProgramError) -> bool {
    if let ProgramError::LoadError {
        io_error,
        verifier_log,
    } = error
    {
        return is_permission_io(io_error) && verifier_log.to_string().trim().is_empty();
    }
    false
}

fn is_permission_io(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

/// The version of a release, unless it is too old. An unreadable release is no reason to refuse:
/// the verifier has the last word anyway.
fn check_release(release: &str) -> Result<Option<(u32, u32)>, SteeringError> {
    let version = parse_release(release);
    if version.is_some_and(|version| version < OLDEST_KERNEL) {
        return Err(SteeringError::KernelTooOld {
            running: release.trim().to_owned(),
        });
    }
    Ok(version)
}

/// Major and minor number of a release such as `6.1.0-18-amd64`.
fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_distributions_are_read() {
        assert_eq!(parse_release("6.1.0-18-amd64\n"), Some((6, 1)));
        assert_eq!(parse_release("5.10.0\n"), Some((5, 10)));
        assert_eq!(parse_release("4.18-rc1"), Some((4, 18)));
        assert_eq!(parse_release(""), None);
        assert_eq!(parse_release("Linux"), None);
    }

    #[test]
    fn a_kernel_that_is_too_old_is_refused_in_one_sentence() {
        let error = check_release("5.9.16-generic\n").unwrap_err();
        assert_eq!(
            error.to_string(),
            "Linux 5.9.16-generic is too old: tunbridge needs 5.10 or newer"
        );
        assert_eq!(check_release("5.10.0-28-amd64").unwrap(), Some((5, 10)));
        assert_eq!(check_release("unknown").unwrap(), None);
    }

    #[test]
    fn the_object_is_aligned_for_the_elf_parser_and_not_empty() {
        assert_eq!(OBJECT.as_ptr().align_offset(8), 0);
        assert_eq!(&OBJECT[..4], b"\x7fELF");
    }
}
