//! Torn and corrupt records, as a broken disk or a power loss would leave them.

use std::fs;
use std::io;
use std::path::Path;

use crate::random::Random;

/// Records that can be damaged, and whether a task is known without them.
const RECORDS: [(&str, bool); 5] = [
    ("task.json", true),
    ("delete.rec", true),
    ("run.rec", false),
    ("exit.rec", false),
    ("post.rec", false),
];

/// What was done.
#[derive(Debug)]
pub(super) struct Damage {
    pub(super) name: String,
    /// The uid in `task.json` before it was damaged.
    pub(super) uid: Option<String>,
    pub(super) essential: bool,
    /// For people.
    pub(super) text: String,
}

/// The uid of the task in a directory, by its record.
pub(super) fn uid_of(dir: &Path) -> Option<String> {
    let text = fs::read_to_string(dir.join("task.json")).ok()?;
    let (uid, _) = text.lines().nth(1)?.split_once(' ')?;
    Some(uid.to_owned())
}

/// Damages one record of one of the named tasks; `None` when there is none.
pub(super) fn one(root: &Path, names: &[String], random: &mut Random) -> Option<Damage> {
    if names.is_empty() {
        return None;
    }
    let name = random.pick(names).clone();
    let dir = root.join(&name);
    let uid = uid_of(&dir);
    let there: Vec<_> = RECORDS
        .iter()
        .filter(|(file, _)| dir.join(file).exists())
        .collect();
    if there.is_empty() {
        return None;
    }
    let (file, essential) = *random.pick(&there);
    let path = dir.join(file);
    let mut bytes = fs::read(&path).ok()?;
    let how = change(&mut bytes, random);
    fs::write(&path, &bytes).ok()?;
    Some(Damage {
        text: format!("{name}/{file} {how}"),
        name,
        uid,
        essential: *essential,
    })
}

fn change(bytes: &mut Vec<u8>, random: &mut Random) -> String {
    let length = bytes.len();
    match random.below(5) {
        0 => {
            bytes.clear();
            "emptied".to_owned()
        }
        1 => {
            bytes.truncate(random.below(length));
            format!("cut from {length} to {} bytes", bytes.len())
        }
        2 => {
            let from = random.below(length);
            bytes[from..].fill(0);
            format!("zeroed from byte {from}")
        }
        3 => {
            bytes.extend_from_slice(b"task-executor exit 1 00000000 0\n");
            "extended".to_owned()
        }
        _ => {
            let (at, bit) = (random.below(length), random.below(8));
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << bit;
            }
            format!("bit {bit} of byte {at} flipped")
        }
    }
}

/// Leaves behind what a crash or a stranger may leave in a data directory.
pub(super) fn litter(root: &Path, random: &mut Random) -> io::Result<String> {
    let id = format!("litter{}", random.below(1000));
    match random.below(4) {
        0 => {
            let dir = root.join(".new").join(&id);
            fs::create_dir_all(&dir)?;
            fs::write(dir.join("task.json.new"), "task-exec")?;
            Ok(format!(".new/{id} half written"))
        }
        1 => {
            let dir = root.join(".trash").join(&id);
            fs::create_dir_all(&dir)?;
            fs::write(dir.join("stdout.log"), "left")?;
            Ok(format!(".trash/{id} half removed"))
        }
        2 => {
            fs::create_dir_all(root.join(&id))?;
            Ok(format!("{id}/ without a record"))
        }
        _ => {
            fs::write(root.join(&id), "no directory")?;
            Ok(format!("{id}, a plain file"))
        }
    }
}
