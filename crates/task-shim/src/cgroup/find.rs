//! Where this process's own groups are, told from `/proc/self/mountinfo` and `/proc/self/cgroup`.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};

use super::{Controller, Unavailable, Version};

/// The agent's own group in the hierarchy of one controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    /// Which interface its files have.
    pub version: Version,
    /// Its directory.
    pub dir: PathBuf,
}

/// The agent's own groups, or why there is none to use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Homes {
    found: [Result<Home, Unavailable>; 3],
}

impl Homes {
    /// Those of this process. `top` is where this agent makes its groups: a server that was
    /// moved into it by an earlier life of the agent still counts as being in its parent.
    pub fn current(top: &str) -> io::Result<Self> {
        let mounts = fs::read("/proc/self/mountinfo")?;
        let own = fs::read("/proc/self/cgroup")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Self::parse(&text(&mounts), &text(&own), top))
    }

    /// The same, from the texts of the two files.
    pub fn parse(mountinfo: &str, own: &str, top: &str) -> Self {
        let mounts: Vec<_> = mountinfo.lines().filter_map(Mount::parse).collect();
        let find = |controller| {
            let mut home = find(&mounts, own, controller)?;
            if home
                .dir
                .ends_with(Path::new(top).join(super::delegate::LEAF))
            {
                home.dir.pop();
                home.dir.pop();
            }
            Ok(home)
        };
        Self {
            found: Controller::ALL.map(find),
        }
    }

    /// The own group for a controller.
    pub fn of(&self, controller: Controller) -> Result<&Home, Unavailable> {
        let index = Controller::ALL.iter().position(|c| *c == controller);
        index
            .and_then(|index| self.found.get(index))
            .map_or(Err(Unavailable::NoController), |home| {
                home.as_ref().map_err(Clone::clone)
            })
    }

    /// Directories of the own groups, each once.
    pub fn dirs(&self) -> Vec<&Path> {
        let mut dirs: Vec<&Path> = Vec::new();
        for home in self.found.iter().flatten() {
            if !dirs.contains(&&*home.dir) {
                dirs.push(&home.dir);
            }
        }
        dirs
    }
}

impl Home {
    /// Whether groups with this controller can be made here, as far as can be told without trying.
    pub fn check(&self, controller: Controller) -> Result<(), Unavailable> {
        let may = |path: &Path, flags| {
            access(path, flags).map_err(|errno| match errno {
                Errno::EROFS => Unavailable::ReadOnly(self.dir.clone()),
                errno => Unavailable::System {
                    path: path.to_owned(),
                    errno,
                },
            })
        };
        may(&self.dir, AccessFlags::W_OK | AccessFlags::X_OK)?;
        if self.version == Version::V2 {
            super::delegate::offered(&self.dir, controller.as_str())?;
            may(&self.dir.join(super::delegate::SUBTREE), AccessFlags::W_OK)?;
        }
        Ok(())
    }
}

/// One line of mountinfo, as far as it matters (`proc_pid_mountinfo(5)`).
struct Mount<'a> {
    /// The directory of the hierarchy that is mounted.
    root: PathBuf,
    point: PathBuf,
    read_only: bool,
    kind: &'a str,
    super_options: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(3);
        let (root, point, options) = (left.next()?, left.next()?, left.next()?);
        let mut right = right.split(' ');
        let (kind, _, super_options) = (right.next()?, right.next()?, right.next()?);
        let read_only = |options| has(options, "ro");
        Some(Self {
            root: unescape(root),
            point: unescape(point),
            read_only: read_only(options) || read_only(super_options),
            kind,
            super_options,
        })
    }
}

/// Whether a list with commas has a word.
fn has(list: &str, word: &str) -> bool {
    list.split(',').any(|item| item == word)
}

/// Blanks, tabs, line breaks and backslashes are written as a backslash and three octal digits.
fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = (*first == b'\\').then(|| octal(tail.get(..3)?)).flatten();
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &tail[3..] } else { tail };
    }
    PathBuf::from(OsString::from_vec(bytes))
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

fn find(mounts: &[Mount<'_>], own: &str, controller: Controller) -> Result<Home, Unavailable> {
    let name = controller.as_str();
    // `HIERARCHY:CONTROLLERS:PATH`; that of v2 has no controllers.
    let lines = || {
        own.lines()
            .filter_map(|line| line.split_once(':')?.1.split_once(':'))
    };
    let (version, path) = match lines().find(|(list, _)| has(list, name)) {
        Some((_, path)) => (Version::V1, path),
        None => match lines().find(|(list, _)| list.is_empty()) {
            Some((_, path)) => (Version::V2, path),
            None => return Err(Unavailable::NoController),
        },
    };
    let matches = |mount: &&Mount<'_>| match version {
        Version::V1 => mount.kind == "cgroup" && has(mount.super_options, name),
        Version::V2 => mount.kind == "cgroup2",
    };
    locate(mounts.iter().filter(matches), Path::new(path)).map(|dir| Home { version, dir })
}

/// The directory under which `path` of a hierarchy can be seen, and written if possible.
fn locate<'a>(
    mounts: impl Iterator<Item = &'a Mount<'a>>,
    path: &Path,
) -> Result<PathBuf, Unavailable> {
    let mut problem = Unavailable::NotMounted;
    let mut found = None;
    for mount in mounts {
        let dir = below(path, &mount.root).map(|rest| {
            let mut dir = mount.point.clone();
            dir.extend(rest.components());
            dir
        });
        match dir {
            None if problem == Unavailable::NotMounted => {
                problem = Unavailable::Outside(mount.point.clone());
            }
            None => {}
            Some(dir) if mount.read_only => {
                // What is mounted over another mount hides it.
                if found.as_ref() == Some(&dir) {
                    found = None;
                }
                problem = Unavailable::ReadOnly(dir);
            }
            Some(dir) => found = Some(dir),
        }
    }
    found.ok_or(problem)
}

/// What is left of `path` below `root`. With `..` in one of them the place is outside of what
/// this process's cgroup namespace can name.
fn below<'a>(path: &'a Path, root: &Path) -> Option<&'a Path> {
    let climbs = |path: &Path| path.components().any(|part| part == Component::ParentDir);
    if climbs(path) || climbs(root) {
        return None;
    }
    path.strip_prefix(root).ok()
}
