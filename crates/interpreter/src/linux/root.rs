//! A root directory of its own: what Python reads, read only, a scratch folder, and two devices. Needs a mount
//! namespace.

use super::failed;
use crate::SCRATCH;
use rustix::fs::CWD;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_change, mount_remount,
    move_mount, open_tree, unmount,
};
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

/// Where the new root is put together. It hides what was there, but everything is held by then.
const PLACE: &str = "/proc";
/// Devices that programs expect. They hold nothing.
pub const DEVICES: [&str; 2] = ["/dev/null", "/dev/urandom"];
/// Files and folders in the scratch folder.
const ENTRIES: u32 = 4096;
/// Links to follow before they are taken for a circle, as the kernel does.
const MAX_LINKS: usize = 40;

/// Makes the new root this process's own.
pub fn enter(readable: &[PathBuf], scratch: u64) -> Result<(), String> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).map_err(failed("private mounts"))?;
    let mut held = Vec::new();
    let mut links = Vec::new();
    for path in readable {
        let name = path.display();
        let real = follow(path, &mut links).map_err(failed(&name))?;
        held.push(Held::new(real, MountFlags::NODEV).map_err(failed(&name))?);
    }
    for path in DEVICES {
        held.push(Held::new(path.into(), MountFlags::NOEXEC).map_err(failed(path))?);
    }
    tmpfs(Path::new(PLACE), 1 << 20, MountFlags::empty()).map_err(failed("a root directory"))?;
    // A folder comes before what is in it.
    held.sort_by(|a, b| a.path.cmp(&b.path));
    for held in &held {
        held.attach().map_err(failed(held.path.display()))?;
    }
    for (link, target) in links {
        let place = inside(&link);
        if place.symlink_metadata().is_err() {
            make_parent(&place).and_then(|()| symlink(target, &place)).map_err(failed(link.display()))?;
        }
    }
    let folder = inside(Path::new(SCRATCH));
    fs::create_dir(&folder).map_err(failed(SCRATCH))?;
    tmpfs(&folder, scratch, MountFlags::NOEXEC).map_err(failed(SCRATCH))?;
    read_only(Path::new(PLACE), MountFlags::NODEV).map_err(failed("a root directory"))?;
    std::env::set_current_dir(PLACE).map_err(failed("a root directory"))?;
    // The old root comes to lie on the new one, and is taken off.
    rustix::process::pivot_root(".", ".")
        .and_then(|()| unmount(".", UnmountFlags::DETACH))
        .map_err(failed("a root directory"))?;
    std::env::set_current_dir("/").map_err(failed("a root directory"))
}

/// A file or folder, held while the directory tree changes.
struct Held {
    path: PathBuf,
    folder: bool,
    tree: OwnedFd,
    flags: MountFlags,
}

impl Held {
    fn new(path: PathBuf, flags: MountFlags) -> io::Result<Self> {
        let how = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
        let tree = open_tree(CWD, &path, how)?;
        Ok(Self { folder: path.metadata()?.is_dir(), path, tree, flags })
    }

    fn attach(&self) -> io::Result<()> {
        let place = inside(&self.path);
        if place.symlink_metadata().is_err() {
            if self.folder {
                fs::create_dir_all(&place)?;
            } else {
                make_parent(&place)?;
                fs::File::create(&place)?;
            }
        }
        move_mount(&self.tree, "", CWD, &place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        read_only(&place, self.flags)
    }
}

/// What a path stands for. The links on the way are added to `links`, each with what it holds.
fn follow(path: &Path, links: &mut Vec<(PathBuf, PathBuf)>) -> io::Result<PathBuf> {
    let mut rest: Vec<_> = path.components().rev().map(|it| it.as_os_str().to_owned()).collect();
    let mut real = PathBuf::from("/");
    let mut followed = 0;
    while let Some(name) = rest.pop() {
        match Path::new(&name).components().next() {
            Some(Component::Normal(_)) => real.push(&name),
            Some(Component::RootDir) => real = PathBuf::from("/"),
            Some(Component::ParentDir) => {
                real.pop();
            }
            _ => {}
        }
        if real.symlink_metadata()?.is_symlink() {
            followed += 1;
            if followed > MAX_LINKS {
                return Err(io::Error::other("too many links"));
            }
            let target = fs::read_link(&real)?;
            links.push((real.clone(), target.clone()));
            real.pop();
            rest.extend(target.components().rev().map(|it| it.as_os_str().to_owned()));
        }
    }
    Ok(real)
}

/// A path in the new root.
fn inside(path: &Path) -> PathBuf {
    Path::new(PLACE).join(path.strip_prefix("/").unwrap_or(path))
}

fn make_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)
}

/// An empty folder in memory, of so many bytes.
fn tmpfs(place: &Path, bytes: u64, flags: MountFlags) -> io::Result<()> {
    // None at all would mean no limit.
    let options = format!("mode=0755,nr_inodes={ENTRIES},size={}", bytes.max(1));
    let options = CString::new(options).expect("digits");
    Ok(mount("tmpfs", place, "tmpfs", flags | MountFlags::NOSUID | MountFlags::NODEV, options.as_c_str())?)
}

fn read_only(place: &Path, flags: MountFlags) -> io::Result<()> {
    // A flag that a mount outside has can't be taken off in here.
    let kept = rustix::fs::statvfs(place)?.f_flag;
    let mut flags = flags | MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID;
    if kept.contains(rustix::fs::StatVfsMountFlags::NOEXEC) {
        flags |= MountFlags::NOEXEC;
    }
    Ok(mount_remount(place, flags, "")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_and_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().canonicalize().unwrap().join(name);
        fs::create_dir_all(at("real/bin")).unwrap();
        fs::write(at("real/bin/python3.9"), "").unwrap();
        symlink("python3.9", at("real/bin/python3")).unwrap();
        symlink("real/../real", at("link")).unwrap();
        symlink(at("link/bin/python3"), at("python")).unwrap();
        let mut links = Vec::new();
        assert_eq!(follow(&at("python"), &mut links).unwrap(), at("real/bin/python3.9"));
        let names: Vec<_> = links.into_iter().map(|(link, _)| link).collect();
        assert!(names.ends_with(&[at("python"), at("link"), at("real/bin/python3")]), "{names:?}");

        symlink(at("b"), at("a")).unwrap();
        symlink(at("a"), at("b")).unwrap();
        assert!(follow(&at("a"), &mut Vec::new()).is_err());
        assert!(follow(&at("nothing"), &mut Vec::new()).is_err());
    }
}
