//! Who runs the server: ourselves, or an unprivileged user where we are root, because PostgreSQL refuses root.

use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use super::error::{EmbeddedError, io};

/// The user who runs the server and owns its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// The user of this process.
    Ourselves,
    /// Another one, because we are root.
    Other { uid: u32, gid: u32 },
}

impl Owner {
    /// The owner of data that exist already, else `postgres`, else `nobody`.
    pub(super) fn find(data: &Path) -> Result<Self, EmbeddedError> {
        if !is_root() {
            return Ok(Self::Ourselves);
        }
        if let Ok(found) = data.metadata()
            && found.uid() != 0
        {
            return Ok(Self::Other { uid: found.uid(), gid: found.gid() });
        }
        let users = std::fs::read_to_string("/etc/passwd").map_err(io("read", "/etc/passwd"))?;
        let named = |name: &str| users.lines().find_map(|line| ids_of(line, name));
        let (uid, gid) = named("postgres").or_else(|| named("nobody")).ok_or(EmbeddedError::NoUser)?;
        Ok(Self::Other { uid, gid })
    }

    /// Makes the command run as this user, in a process group of its own: a Ctrl-C on the terminal is meant for us,
    /// and we stop the server when we are done with it.
    pub(super) fn run_as(self, command: &mut Command) {
        command.current_dir("/").process_group(0);
        if let Self::Other { uid, gid } = self {
            command.uid(uid).gid(gid);
        }
    }

    /// Gives a file or folder to this user.
    pub(super) fn give(self, path: &Path) -> Result<(), EmbeddedError> {
        match self {
            Self::Ourselves => Ok(()),
            Self::Other { uid, gid } => chown(path, Some(uid), Some(gid)).map_err(io("change the owner of", path)),
        }
    }

    /// Refuses a folder that this user cannot enter, for instance one in root's home.
    pub(super) fn check_reach(self, folder: &Path) -> Result<(), EmbeddedError> {
        let Self::Other { uid, .. } = self else { return Ok(()) };
        let mut look = Command::new("sh");
        look.args(["-c", "cd \"$0\""]).arg(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.run_as(&mut look);
        let reached = look.status().map_err(io("look into", folder))?;
        if reached.success() { Ok(()) } else { Err(EmbeddedError::NotReachable { folder: folder.to_owned(), uid }) }
    }
}

/// Whether this process runs as root.
pub(super) fn is_root() -> bool {
    user_id() == Some(0)
}

/// The user of this process.
pub(super) fn user_id() -> Option<u32> {
    static USER: OnceLock<Option<u32>> = OnceLock::new();
    *USER.get_or_init(|| match Path::new("/proc/self").metadata() {
        Ok(process) => Some(process.uid()),
        Err(_) => String::from_utf8(Command::new("id").arg("-u").output().ok()?.stdout).ok()?.trim().parse().ok(),
    })
}

/// User and group id from a line of /etc/passwd, if it is this user's.
fn ids_of(line: &str, name: &str) -> Option<(u32, u32)> {
    let mut fields = line.split(':');
    (fields.next() == Some(name)).then_some(())?;
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    Some((uid, gid))
}

#[cfg(test)]
mod tests {
    use super::ids_of;

    #[test]
    fn a_line_of_passwd_gives_the_ids_of_its_user_only() {
        let line = "postgres:x:101:104:PostgreSQL administrator,,,:/var/lib/postgresql:/bin/bash";
        assert_eq!(ids_of(line, "postgres"), Some((101, 104)));
        assert_eq!(ids_of(line, "post"), None);
        assert_eq!(ids_of("postgres:x", "postgres"), None);
    }
}
