//! The file system on which a cache lies, for `raisin doctor`: what the store promises depends on it.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use raisin_base::digest::Digest;

/// What kind of file system it is, as far as it matters for a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystemKind {
    /// On a disk of this machine, or not known.
    Local,
    /// Other machines can use the same files.
    Network,
    /// A program serves the files. They may come from another machine.
    Program,
    /// Layers of a container.
    Layers,
    /// In the memory of this machine.
    Memory,
}

/// The file system of an existing path: its name, such as `ext4` or `nfs4`, and its kind.
pub fn file_system(path: &Path) -> Option<(String, FileSystemKind)> {
    // The number of the magic constants in statfs(2) is 32 bits wide, whatever the type is.
    let magic = rustix::fs::statfs(path).ok()?.f_type as u32;
    let (name, kind) = kind_of(magic);
    let mounted = mounted_type(path);
    let name = mounted.or_else(|| name.map(str::to_owned)).unwrap_or_else(|| format!("of type {magic:#x}"));
    Some((name, kind))
}

/// The name of this machine in the names of staging folders, if other machines can use this cache; otherwise empty. A
/// lock of another machine may not hold here, so two machines must not write into the same staging folder. A user can
/// give the name with RAISIN_MACHINE, for a file system that this file does not know.
pub(super) fn machine_for(cache: &Path) -> String {
    let given = std::env::var_os("RAISIN_MACHINE").filter(|name| !name.is_empty());
    if let Some(name) = given {
        return Digest::of(name.as_encoded_bytes()).short();
    }
    let kind = rustix::fs::statfs(cache).map_or(FileSystemKind::Local, |found| kind_of(found.f_type as u32).1);
    if !matches!(kind, FileSystemKind::Network | FileSystemKind::Program) {
        return String::new();
    }
    let read = |path: &str| std::fs::read(path).unwrap_or_default();
    Digest::of(&[read("/proc/sys/kernel/hostname"), read("/etc/machine-id")].concat()).short()
}

fn kind_of(magic: u32) -> (Option<&'static str>, FileSystemKind) {
    use FileSystemKind::{Layers, Local, Memory, Network, Program};
    let (name, kind) = match magic {
        0x6969 => ("nfs", Network),
        0x517B => ("smb", Network),
        0xFE53_4D42 => ("smb2", Network),
        0xFF53_4D42 => ("cifs", Network),
        0x0102_1997 => ("9p", Network),
        0x0BD0_0BD0 => ("lustre", Network),
        0x4750_4653 => ("gpfs", Network),
        0x00C3_6400 => ("ceph", Network),
        0x5346_414F | 0x6B41_4653 => ("afs", Network),
        0x7375_7245 => ("coda", Network),
        0x0116_1970 => ("gfs2", Network),
        0x7461_636F => ("ocfs2", Network),
        0x1983_0326 => ("beegfs", Network),
        0xAAD7_AAEA => ("panfs", Network),
        0x786F_4256 => ("vboxsf", Network),
        0x6573_5546 => ("fuse", Program),
        0x794C_7630 => ("overlay", Layers),
        0x0102_1994 => ("tmpfs", Memory),
        0x8584_58F6 => ("ramfs", Memory),
        0xEF53 => ("ext4", Local),
        0x5846_5342 => ("xfs", Local),
        0x9123_683E => ("btrfs", Local),
        0x2FC1_2FC1 => ("zfs", Local),
        0xF2F5_2010 => ("f2fs", Local),
        _ => return (None, Local),
    };
    (Some(name), kind)
}

/// The type with which the file system of a path was mounted, such as `fuse.sshfs`, from /proc/self/mountinfo.
fn mounted_type(path: &Path) -> Option<String> {
    let device = path.metadata().ok()?.dev();
    let number = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let text = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    text.lines().find_map(|line| {
        let (mount, source) = line.split_once(" - ")?;
        (mount.split(' ').nth(2)? == number).then(|| source.split(' ').next().map(str::to_owned))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_system_of_a_path_has_the_name_with_which_it_was_mounted() {
        let (name, kind) = file_system(Path::new("/dev/shm")).unwrap();
        assert_eq!((name.as_str(), kind), ("tmpfs", FileSystemKind::Memory));
        assert_eq!(file_system(Path::new("/proc")).unwrap().0, "proc");
        assert!(file_system(Path::new("/nowhere/at/all")).is_none());
    }

    #[test]
    fn file_systems_that_several_machines_can_use_are_known_by_their_numbers() {
        // The numbers are those of linux/magic.h and of statfs(2).
        for magic in [0x6969, 0x517B, 0xFE53_4D42, 0xFF53_4D42, 0x0102_1997, 0x0BD0_0BD0, 0x4750_4653, 0x00C3_6400] {
            assert_eq!(kind_of(magic).1, FileSystemKind::Network, "{magic:x}");
        }
        assert_eq!(kind_of(0x6573_5546).1, FileSystemKind::Program);
        assert_eq!(kind_of(0x794C_7630).1, FileSystemKind::Layers);
        assert_eq!(kind_of(0xEF53).1, FileSystemKind::Local);
    }
}
