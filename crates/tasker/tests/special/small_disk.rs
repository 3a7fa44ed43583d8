//! A file system of its own, in memory.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Gone with the value.
pub(super) struct SmallDisk(PathBuf);

impl SmallDisk {
    /// So many MiB; none where only root may mount one.
    pub(super) fn mounted(size: u32) -> Option<Self> {
        let folder = std::env::temp_dir().join(format!("tasker-disk-{:016x}", rand::random::<u64>()));
        std::fs::create_dir(&folder).unwrap();
        let options = format!("size={size}m");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&folder).output();
        if mount.is_ok_and(|done| done.status.success()) {
            return Some(Self(folder));
        }
        std::fs::remove_dir(folder).unwrap();
        None
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }

    /// Fills it to the last byte.
    pub(super) fn fill(&self) {
        let mut file = File::create(self.ballast()).unwrap();
        let block = vec![0; 1 << 20];
        let mut size = block.len();
        while size > 0 {
            if file.write(&block[..size]).is_err() {
                size /= 2;
            }
        }
    }

    pub(super) fn make_room(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that was killed may still have a file open there.
        let _gone = Command::new("umount").arg("-l").arg(&self.0).status();
        let _removed = std::fs::remove_dir(&self.0);
    }
}
