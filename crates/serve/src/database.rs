//! The database file: made, checked, and brought up to date.
//!
//! The other modules have the statements; here are the file, its format, and what can go wrong with both. Several
//! processes may have the file open at a time: a server, and commands beside it.
//!
//! What is committed survives a loss of power, not only of the process (`synchronous = FULL`). That is a wait for the
//! disk with each commit, but nobody stands in line for it: usage is written in batches, by a thread of its own.

use rusqlite::config::DbConfig;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// Changes of the format, in order: a database of version n has had the first n. What was released is never changed.
const MIGRATIONS: [&str; 4] = [
    include_str!("database/0001_keys.sql"),
    include_str!("database/0002_usage.sql"),
    include_str!("database/0003_history.sql"),
    include_str!("database/0004_responses.sql"),
];

/// Tells our files from those of other programs: "puna".
const APPLICATION_ID: i32 = 0x7075_6e61;

/// How long to wait for another process that writes.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why the database can't be used, or something in it can't be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// There is no such file, or it is none.
    #[error("{}: expected a database file, found {found}", path.display())]
    NoFile {
        /// What was to be opened.
        path: PathBuf,
        /// What is there.
        found: &'static str,
    },
    /// A later puna has changed the format.
    #[error("{}: the database has format {found}, expected at most {known}: a newer puna wrote it", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// The latest format that this puna knows.
        known: usize,
    },
    /// It is a database, but not puna's.
    #[error("{}: expected a database of puna's, found one of another program", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The file is no database, or not a whole one.
    #[error("{}: the database is damaged: {problem}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        problem: String,
    },
    /// Another process does not let go of the file.
    #[error("{}: the database is locked: somebody has been writing to it for {} s", path.display(), PATIENCE.as_secs())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// SQLite can't go on, e.g. because the disk is full.
    #[error("{}: {error}", path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        error: rusqlite::Error,
    },
    /// The operating system has no random bytes.
    #[error("no random bytes from the operating system: {0}")]
    Random(getrandom::Error),
    /// There is no such thing, or it is somebody else's.
    #[error("there is no {what} {id:?}")]
    NotFound {
        /// What was looked for.
        what: &'static str,
        /// By which name.
        id: String,
    },
    /// The name is in use.
    #[error("{what} {id:?} exists already")]
    Taken {
        /// What was to be made.
        what: &'static str,
        /// Its name.
        id: String,
    },
    /// A value that can't be kept.
    #[error("{what}: expected {expected}, found {found}")]
    Invalid {
        /// Which value.
        what: &'static str,
        /// What it may be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// The store has as much to do as it may put off.
    #[error("the database is busy: {waiting} calls are waiting")]
    Busy {
        /// Calls that have not begun.
        waiting: usize,
    },
    /// Usage waits in memory, since it can't be written.
    #[error("usage can't be written: {0}")]
    Unwritten(String),
    /// The call did not come to an end.
    #[error("the database's thread did not answer")]
    Stopped,
}

/// A failure inside of a file that the failing code does not know.
#[derive(Debug)]
pub(crate) enum Fault {
    Sql(rusqlite::Error),
    Other(Error),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Fault {
        Fault::Sql(error)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Fault {
        Fault::Other(error)
    }
}

impl Fault {
    fn in_file(self, path: &Path) -> Error {
        let path = path.to_owned();
        let error = match self {
            Fault::Sql(error) => error,
            Fault::Other(error) => return error,
        };
        let unreadable = matches!(
            error,
            rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::IntegralValueOutOfRange(..)
                | rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::Utf8Error(..)
        );
        match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => Error::Damaged { path, problem: "it is no SQLite file".to_owned() },
            Some(ErrorCode::DatabaseCorrupt) => Error::Damaged { path, problem: error.to_string() },
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Error::Locked { path },
            _ if unreadable => Error::Damaged { path, problem: error.to_string() },
            _ => Error::Sqlite { path, error },
        }
    }
}

/// An open database. Every call may wait for the disk.
#[derive(Debug)]
pub struct Database {
    connection: Connection,
    /// As it was named.
    path: PathBuf,
    /// Whether keys were made or revoked by way of this value since somebody asked.
    keys_changed: bool,
}

impl Database {
    /// Opens a database, and makes it if there is none: the file for its owner alone, and so the folders above it that
    /// are not there yet. An older format is brought up to date.
    ///
    /// # Errors
    /// When the file can't be opened or made, is damaged or not puna's, or has a format of the future.
    pub fn open(path: &Path) -> Result<Database, Error> {
        if !path.exists() {
            make_file(path)?;
        }
        Database::open_existing(path)
    }

    /// Opens a database that must be there.
    ///
    /// # Errors
    /// As for [`Database::open`], and when there is no such file.
    pub fn open_existing(path: &Path) -> Result<Database, Error> {
        check_file(path)?;
        // SQLite has names with a meaning, such as `:memory:`; none of them is absolute.
        let absolute = std::path::absolute(path).map_err(|error| Error::Io { path: path.to_owned(), error })?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let opened = Connection::open_with_flags(absolute, flags).map_err(Fault::Sql);
        let connection = opened.and_then(|mut connection| {
            connection.busy_timeout(PATIENCE)?;
            check_format(&connection, path)?;
            configure(&connection)?;
            migrate(&mut connection, path, &MIGRATIONS)?;
            Ok(connection)
        });
        let connection = connection.map_err(|fault| fault.in_file(path))?;
        Ok(Database { connection, path: path.to_owned(), keys_changed: false })
    }

    /// The file, as it was named.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads, from one state of the database.
    pub(crate) fn read<T>(&mut self, work: impl FnOnce(&Transaction) -> Result<T, Fault>) -> Result<T, Error> {
        let transaction = self.connection.transaction().map_err(Fault::Sql);
        transaction.and_then(|transaction| work(&transaction)).map_err(|fault| fault.in_file(&self.path))
    }

    /// Writes all that `work` does, or nothing of it if it fails.
    pub(crate) fn write<T>(&mut self, work: impl FnOnce(&Transaction) -> Result<T, Fault>) -> Result<T, Error> {
        // Whoever began by reading could not go on to write if somebody else wrote in between.
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate);
        let result = transaction.map_err(Fault::Sql).and_then(|transaction| {
            let result = work(&transaction)?;
            transaction.commit()?;
            Ok(result)
        });
        result.map_err(|fault| fault.in_file(&self.path))
    }

    /// Moves all that was written out of the log beside the file, so that what was deleted is nowhere. While another
    /// process reads, that is not possible and left to a later time.
    pub(crate) fn empty_log(&mut self) -> Result<(), Error> {
        let emptied = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        emptied.map_err(|error| Fault::Sql(error).in_file(&self.path))
    }

    /// A number that changes whenever another connection, in this process or another one, has written.
    pub(crate) fn version_of_others(&mut self) -> Result<i64, Error> {
        self.read(|transaction| Ok(transaction.pragma_query_value(None, "data_version", |row| row.get(0))?))
    }

    pub(crate) fn note_changed_keys(&mut self) {
        self.keys_changed = true;
    }

    pub(crate) fn take_changed_keys(&mut self) -> bool {
        std::mem::take(&mut self.keys_changed)
    }
}

/// A value that stands in the database as JSON.
pub(crate) struct Json<T>(pub T);

impl<T: Serialize> ToSql for Json<T> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let text =
            serde_json::to_string(&self.0).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
        Ok(text.into())
    }
}

impl<T: DeserializeOwned> FromSql for Json<T> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Json<T>> {
        serde_json::from_str(value.as_str()?).map(Json).map_err(|error| FromSqlError::Other(error.into()))
    }
}

/// Makes an empty file that only its owner may open, and its folder.
///
/// It must not be there: closing a file takes all locks from it that the process has, SQLite's too.
fn make_file(path: &Path) -> Result<(), Error> {
    let fault = |path: &Path| {
        let path = path.to_owned();
        move |error| Error::Io { path, error }
    };
    let (mut folder, mut file) = (fs::DirBuilder::new(), fs::OpenOptions::new());
    folder.recursive(true);
    file.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
        folder.mode(0o700);
        file.mode(0o600);
    }
    if let Some(above) = path.parent().filter(|above| !above.as_os_str().is_empty()) {
        folder.create(above).map_err(fault(above))?;
    }
    match file.open(path) {
        // Another process was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result.map(drop).map_err(fault(path)),
    }
}

/// There is a file, and from now on it is its owner's alone.
fn check_file(path: &Path) -> Result<(), Error> {
    let fault = |error| Error::Io { path: path.to_owned(), error };
    let found = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => "nothing",
        Err(error) => return Err(fault(error)),
        Ok(metadata) if metadata.is_dir() => "a directory",
        Ok(metadata) if !metadata.is_file() => "something else",
        Ok(metadata) => {
            #[cfg(unix)]
            {
                use std::os::unix::fs::PermissionsExt;
                let mode = metadata.permissions().mode();
                if mode & 0o077 != 0 {
                    fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o700)).map_err(fault)?;
                }
            }
            return Ok(());
        }
    };
    Err(Error::NoFile { path: path.to_owned(), found })
}

/// Refuses what is not ours before anything is changed in it.
fn check_format(connection: &Connection, path: &Path) -> Result<(), Fault> {
    let path = path.to_owned();
    // One statement, so that it sees one state.
    let (application, version, n_tables): (i32, i64, i64) = connection.query_row(
        "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_schema)
         FROM pragma_application_id, pragma_user_version",
        [],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )?;
    if (application, version, n_tables) == (0, 0, 0) {
        return Ok(());
    }
    if application != APPLICATION_ID {
        return Err(Error::Foreign { path }.into());
    }
    Ok(())
}

fn configure(connection: &Connection) -> Result<(), Fault> {
    // The file may be a stranger's: what it holds must not make SQLite do more than read and write it.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // What is deleted is overwritten.
    connection.pragma_update(None, "secure_delete", true)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    keep_log(connection)
}

/// Lets readers go on while somebody writes: what is written goes to a log beside the file at first.
///
/// The first connection to a file changes it so. It reads before it writes for that, where SQLite itself does not wait
/// for others that write, lest two of them wait for each other.
fn keep_log(connection: &Connection) -> Result<(), Fault> {
    let start = Instant::now();
    loop {
        match connection.pragma_update(None, "journal_mode", "WAL") {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && start.elapsed() < PATIENCE => {
                thread::sleep(Duration::from_millis(10));
            }
            result => return result.map_err(Fault::Sql),
        }
    }
}

/// Applies what the database has not had yet, each change as a whole.
fn migrate(connection: &mut Connection, path: &Path, migrations: &[&str]) -> Result<(), Fault> {
    let version = |connection: &Connection| -> Result<usize, Fault> {
        let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        match usize::try_from(found) {
            Ok(version) if version <= migrations.len() => Ok(version),
            Ok(_) => Err(Error::Newer { path: path.to_owned(), found, known: migrations.len() }.into()),
            Err(_) => {
                let problem = format!("expected a format from 0, found {found}");
                Err(Error::Damaged { path: path.to_owned(), problem }.into())
            }
        }
    };
    while version(connection)? < migrations.len() {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // Another process may have been faster.
        let done = version(&transaction)?;
        if let Some(migration) = migrations.get(done) {
            transaction.execute_batch(migration)?;
            transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
            transaction.pragma_update(None, "user_version", done as i64 + 1)?;
            transaction.commit()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables(connection: &Connection) -> Vec<String> {
        let mut statement = connection.prepare("SELECT name FROM sqlite_schema ORDER BY name").unwrap();
        let names = statement.query_map([], |row| row.get(0)).unwrap();
        names.map(Result::unwrap).collect()
    }

    #[test]
    fn a_change_of_the_format_is_applied_once_and_as_a_whole() {
        let mut connection = Connection::open_in_memory().unwrap();
        let path = Path::new("x.db");
        let first = "CREATE TABLE a (x) STRICT";
        assert!(migrate(&mut connection, path, &[first]).is_err(), "a STRICT table without types");
        migrate(&mut connection, path, &["CREATE TABLE a (x)"]).unwrap();
        connection.execute("INSERT INTO a VALUES (7)", []).unwrap();
        let second = "CREATE TABLE b (x); INSERT INTO b SELECT x FROM a;";
        assert!(migrate(&mut connection, path, &["CREATE TABLE a (x)", &format!("{second} SELECT nothing;")]).is_err());
        assert_eq!(tables(&connection), ["a"]);
        for _ in 0..2 {
            migrate(&mut connection, path, &["CREATE TABLE a (x)", second]).unwrap();
            assert_eq!(tables(&connection), ["a", "b"]);
        }
        let copied: i64 = connection.query_row("SELECT x FROM b", [], |row| row.get(0)).unwrap();
        assert_eq!(copied, 7);
        let error = migrate(&mut connection, path, &["CREATE TABLE a (x)"]).unwrap_err().in_file(path).to_string();
        assert_eq!(error, "x.db: the database has format 2, expected at most 1: a newer puna wrote it");
    }

    #[test]
    fn every_version_of_the_format_comes_up_to_date() {
        let path = Path::new("x.db");
        let mut newest = Connection::open_in_memory().unwrap();
        migrate(&mut newest, path, &MIGRATIONS).unwrap();
        for n in 0..MIGRATIONS.len() {
            let mut connection = Connection::open_in_memory().unwrap();
            migrate(&mut connection, path, &MIGRATIONS[..n]).unwrap();
            migrate(&mut connection, path, &MIGRATIONS).unwrap();
            assert_eq!(tables(&connection), tables(&newest));
        }
    }
}
