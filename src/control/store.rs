//! The state on disk: one redb file, one write transaction per change.
//!
//! | table | key | value |
//! |---|---|---|
//! | `networks` | id | JSON of [`Network`] |
//! | `containers` | id | JSON of [`Container`] |
//! | `pools` | id | JSON of [`PoolRecord`] |
//! | `meta` | `version`, `counters`, `identity` | JSON |
//!
//! Order that the daemon keeps, so that a crash at any point leaves nothing that cannot be found:
//! **decide → commit → kernel** when something is made, and **kernel → commit** when a container ends or
//! is removed. `State` commits before its methods return, hence: to make something, call it first, touch
//! the kernel after, and take back with `State::remove` what the kernel refused; to end something, clear
//! the kernel first. After a crash, a record that says more than there is is put right by doing it again.
//!
//! redb locks the file, so there is one daemon per state directory. A commit is synced to disk before
//! it returns (a few milliseconds).

use std::fmt::Debug;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, TableDefinition,
    WriteTransaction,
};
use serde::de::DeserializeOwned;

use super::address_leases::PoolRecord;
use super::identity::Identity;
use super::records::{Container, Counters, Network, RECORD_VERSION};

const NETWORKS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("networks");
const CONTAINERS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("containers");
const POOLS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("pools");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// redb's page cache. A record has a few kilooctets; there is no need for redb's default of a gigaoctet.
const CACHE_OCTETS: usize = 8 << 20;

/// A change of the state; all changes of one commit become visible together.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    /// New or changed.
    PutNetwork(&'a Network),
    /// By id.
    DeleteNetwork(&'a str),
    /// New or changed.
    PutContainer(&'a Container),
    /// By id.
    DeleteContainer(&'a str),
    /// New or changed.
    PutPool(&'a PoolRecord),
    /// By id.
    DeletePool(&'a str),
    /// Changed.
    PutCounters(Counters),
}

/// Where changes are made durable.
pub trait Journal: Debug + Send + Sync {
    /// All of `changes`, or none.
    ///
    /// # Errors
    /// If they could not be written.
    fn commit(&mut self, changes: &[Change<'_>]) -> Result<(), StoreError>;
}

/// Everything that is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Records {
    /// Networks, by id.
    pub networks: Vec<Network>,
    /// Containers, by id.
    pub containers: Vec<Container>,
    /// Leased address pools, by id.
    pub pools: Vec<PoolRecord>,
    /// Numbers given out.
    pub counters: Counters,
    /// The host's.
    pub identity: Identity,
}

/// Why the state cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file is locked.
    #[error("another daemon uses this state directory: {} is locked; stop that daemon, or give --state-dir another directory", .0.display())]
    AlreadyOpen(PathBuf),
    /// The file is not, or no longer, a database of ours.
    #[error("the state file {} is damaged ({problem}): move it away to start with an empty state (running containers keep running but are forgotten)", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Written by a later version.
    #[error("the state file {} has version {version}, this daemon knows {RECORD_VERSION}: use the newer daemon, or give --state-dir another directory", .path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// Anything else: disk full, no permission, …
    #[error("cannot use the state file {}: {problem}", .path.display())]
    Other {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// The state file.
pub struct Store {
    /// `None` after a failed attempt to open it again.
    database: Option<Database>,
    path: PathBuf,
    /// A read or write failed: redb refuses everything until the file is opened anew.
    failed: bool,
}

impl Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Opens `path`, or makes it (its directory must exist), readable by its owner only: records
    /// contain environment variables. Checks every page, because redb panics on some damage when it
    /// comes across it later.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let database = open_and_check(path)?;
        let store = Self {
            database: Some(database),
            path: path.to_owned(),
            failed: false,
        };
        store.prepare()?;
        Ok(store)
    }

    /// Everything that is stored.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if a record cannot be understood.
    pub fn load(&self) -> Result<Records, StoreError> {
        let transaction = self
            .database()?
            .begin_read()
            .map_err(|error| self.failed(error))?;
        let table = |definition| {
            transaction
                .open_table(definition)
                .map_err(|error| self.failed(error))
        };
        let meta = |key| {
            let value = table(META)?.get(key).map_err(|error| self.failed(error))?;
            Ok::<_, StoreError>(value.map(|value| value.value().to_vec()))
        };
        Ok(Records {
            networks: self.all(&table(NETWORKS)?)?,
            containers: self.all(&table(CONTAINERS)?)?,
            pools: self.all(&table(POOLS)?)?,
            counters: meta("counters")?
                .map(|value| self.decode("counters", &value))
                .transpose()?
                .unwrap_or_default(),
            identity: meta("identity")?
                .map(|value| self.decode("identity", &value))
                .transpose()?
                .unwrap_or_default(),
        })
    }

    /// Makes the tables and the host's identity, and checks the version.
    fn prepare(&self) -> Result<(), StoreError> {
        let transaction = self
            .database()?
            .begin_write()
            .map_err(|error| self.failed(error))?;
        {
            let mut meta = transaction
                .open_table(META)
                .map_err(|error| self.failed(error))?;
            let stored = meta.get("version").map_err(|error| self.failed(error))?;
            let stored: Option<u32> = stored
                .map(|value| self.decode("version", value.value()))
                .transpose()?;
            match stored {
                Some(version) if version > RECORD_VERSION => {
                    return Err(StoreError::TooNew {
                        path: self.path.clone(),
                        version,
                    });
                }
                Some(RECORD_VERSION) => {}
                older => {
                    if older == Some(1) {
                        self.upgrade(&transaction, NETWORKS, upgrade::network)?;
                    }
                    if matches!(older, Some(1 | 2)) {
                        self.upgrade(&transaction, CONTAINERS, upgrade::container)?;
                    }
                    let version = self.encode(&RECORD_VERSION)?;
                    meta.insert("version", version.as_slice())
                        .map_err(|error| self.failed(error))?;
                }
            }
            let identity = meta.get("identity").map_err(|error| self.failed(error))?;
            if identity.map(drop).is_none() {
                let identity = Identity::random().map_err(|error| StoreError::Other {
                    path: self.path.clone(),
                    problem: error.to_string(),
                })?;
                let identity = self.encode(&identity)?;
                meta.insert("identity", identity.as_slice())
                    .map_err(|error| self.failed(error))?;
            }
            for definition in [NETWORKS, CONTAINERS, POOLS] {
                transaction
                    .open_table(definition)
                    .map_err(|error| self.failed(error))?;
            }
        }
        transaction.commit().map_err(|error| self.failed(error))
    }

    /// Makes something else of each record of a table.
    fn upgrade(
        &self,
        transaction: &WriteTransaction,
        definition: TableDefinition<'static, &'static str, &'static [u8]>,
        upgrade: impl Fn(&[u8]) -> Result<Vec<u8>, serde_json::Error>,
    ) -> Result<(), StoreError> {
        let mut table = transaction
            .open_table(definition)
            .map_err(|error| self.failed(error))?;
        let rows = table.iter().map_err(|error| self.failed(error))?;
        let upgraded = rows.map(|row| {
            let (key, value) = row.map_err(|error| self.failed(error))?;
            let record = upgrade(value.value());
            Ok((
                key.value().to_owned(),
                record.map_err(|error| self.damaged(key.value(), &error))?,
            ))
        });
        let upgraded: Vec<(String, Vec<u8>)> = upgraded.collect::<Result<_, StoreError>>()?;
        for (key, value) in upgraded {
            table
                .insert(key.as_str(), value.as_slice())
                .map_err(|error| self.failed(error))?;
        }
        Ok(())
    }

    fn all<T: DeserializeOwned>(
        &self,
        table: &impl ReadableTable<&'static str, &'static [u8]>,
    ) -> Result<Vec<T>, StoreError> {
        let rows = table.iter().map_err(|error| self.failed(error))?;
        rows.map(|row| {
            let (key, value) = row.map_err(|error| self.failed(error))?;
            self.decode(key.value(), value.value())
        })
        .collect()
    }

    fn decode<T: DeserializeOwned>(&self, key: &str, value: &[u8]) -> Result<T, StoreError> {
        serde_json::from_slice(value).map_err(|error| self.damaged(key, &error))
    }

    fn damaged(&self, key: &str, error: &serde_json::Error) -> StoreError {
        StoreError::Damaged {
            path: self.path.clone(),
            problem: format!("record {key}: {error}"),
        }
    }

    fn encode(&self, value: &impl serde::Serialize) -> Result<Vec<u8>, StoreError> {
        serde_json::to_vec(value).map_err(|error| StoreError::Other {
            path: self.path.clone(),
            problem: error.to_string(),
        })
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the enum is foreign and non-exhaustive"
    )]
    fn failed(&self, error: impl Into<redb::Error>) -> StoreError {
        let path = self.path.clone();
        match error.into() {
            redb::Error::Corrupted(problem) => StoreError::Damaged { path, problem },
            other => {
                let problem = other.to_string();
                match other {
                    redb::Error::TableTypeMismatch { .. }
                    | redb::Error::TypeDefinitionChanged { .. } => {
                        StoreError::Damaged { path, problem }
                    }
                    _ => StoreError::Other { path, problem },
                }
            }
        }
    }
}

impl Journal for Store {
    fn commit(&mut self, changes: &[Change<'_>]) -> Result<(), StoreError> {
        if self.failed {
            // The lock on the file goes with the old one.
            self.database = None;
            self.database = Some(open_and_check(&self.path)?);
            self.failed = false;
        }
        let outcome = self.write(changes);
        self.failed = outcome.is_err();
        outcome
    }
}

impl Store {
    fn database(&self) -> Result<&Database, StoreError> {
        self.database.as_ref().ok_or_else(|| StoreError::Other {
            path: self.path.clone(),
            problem: "it could not be opened again".to_owned(),
        })
    }

    fn write(&self, changes: &[Change<'_>]) -> Result<(), StoreError> {
        let transaction = self
            .database()?
            .begin_write()
            .map_err(|error| self.failed(error))?;
        for change in changes {
            let (definition, key, value) = match *change {
                Change::PutNetwork(network) => {
                    (NETWORKS, network.id.as_str(), Some(self.encode(network)?))
                }
                Change::DeleteNetwork(id) => (NETWORKS, id, None),
                Change::PutContainer(container) => (
                    CONTAINERS,
                    container.id.as_str(),
                    Some(self.encode(container)?),
                ),
                Change::DeleteContainer(id) => (CONTAINERS, id, None),
                Change::PutPool(pool) => (POOLS, pool.id.as_str(), Some(self.encode(pool)?)),
                Change::DeletePool(id) => (POOLS, id, None),
                Change::PutCounters(counters) => (META, "counters", Some(self.encode(&counters)?)),
            };
            let mut table = transaction
                .open_table(definition)
                .map_err(|error| self.failed(error))?;
            let outcome = match &value {
                Some(value) => table.insert(key, value.as_slice()).map(drop),
                None => table.remove(key).map(drop),
            };
            outcome.map_err(|error| self.failed(error))?;
        }
        transaction.commit().map_err(|error| self.failed(error))
    }
}

/// On some damage redb 4 panics while it checks. The daemon must say which file to move away.
fn open_and_check(path: &Path) -> Result<Database, StoreError> {
    std::panic::catch_unwind(|| open_unguarded(path)).unwrap_or_else(|_| {
        Err(StoreError::Damaged {
            path: path.to_owned(),
            problem: "redb gave up on it".to_owned(),
        })
    })
}

fn open_unguarded(path: &Path) -> Result<Database, StoreError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|error| StoreError::Other {
            path: path.to_owned(),
            problem: error.to_string(),
        })?;
    let mut database = Database::builder()
        .set_cache_size(CACHE_OCTETS)
        .create_file(file)
        .map_err(|error| unusable(path, error))?;
    let intact = database
        .check_integrity()
        .map_err(|error| unusable(path, error))?;
    if !intact {
        tracing::warn!(file = %path.display(), "the state file was damaged; went back to its last good commit");
    }
    Ok(database)
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the enum is foreign and non-exhaustive"
)]
fn unusable(path: &Path, error: DatabaseError) -> StoreError {
    match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::AlreadyOpen(path.to_owned()),
        DatabaseError::Storage(error) => storage(path, error),
        other => StoreError::Damaged {
            path: path.to_owned(),
            problem: other.to_string(),
        },
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the enum is foreign and non-exhaustive"
)]
fn storage(path: &Path, error: StorageError) -> StoreError {
    let path = path.to_owned();
    match error {
        StorageError::Corrupted(problem) => StoreError::Damaged { path, problem },
        // "invalid data" is how a file that is no redb database at all is reported.
        StorageError::Io(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof
            ) =>
        {
            StoreError::Damaged {
                path,
                problem: error.to_string(),
            }
        }
        other => StoreError::Other {
            path,
            problem: other.to_string(),
        },
    }
}

mod upgrade;

#[cfg(test)]
mod tests;
