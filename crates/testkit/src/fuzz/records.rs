//! The records of a shim, its launch order, its hints and what it reads of `/proc`.

use task_shim::hint::Hint;
use task_shim::launch::{Hook, Job, Launch, Mode, Remote};
use task_shim::proc::{Scope, parse_stat};
use task_shim::record::{ExitRecord, Identity, Outcome, Phase, PostRecord, RecordError, RunRecord};

use super::mutate::{mutate, text};
use crate::random::Random;

const WORDS: &[&str] = &[
    "task-executor ",
    "run",
    "exit",
    "post",
    " 1 ",
    " 2 ",
    "00000000",
    "uid=",
    "code=",
    "signal=",
    "outcome=ended\n",
    "outcome=lost\n",
    "startedAt=",
    "finishedAt=",
    "phase=main\n",
    "\n",
    "\n\n",
    "state=done\n",
    "-1",
    "2147483648",
    "0",
    "\0",
    "\0\0\0\0\0\0\0\0",
    "\u{1}\0\0\0\0\0\0\0",
    "+7",
];

/// Eight bytes: the values are made from them, so that they stand for a whole case.
pub(super) fn seed(random: &mut Random) -> Vec<u8> {
    random.bits().to_le_bytes().to_vec()
}

fn values(bytes: &[u8]) -> Random {
    let mut seed = [0; 8];
    for (to, from) in seed.iter_mut().zip(bytes) {
        *to = *from;
    }
    Random::new(u64::from_le_bytes(seed))
}

fn integer(random: &mut Random) -> i32 {
    let small = i32::try_from(random.below(300)).unwrap_or_default();
    *random.pick(&[small, -small, 0, i32::MAX, i32::MIN])
}

fn long(random: &mut Random) -> i64 {
    i64::from(integer(random)) * i64::from(integer(random))
}

fn uid(random: &mut Random) -> String {
    format!("{:x}-{}", random.bits(), random.below(10))
}

fn run_record(random: &mut Random) -> RunRecord {
    RunRecord {
        uid: uid(random),
        leader: Identity {
            boot: uid(random),
            pid_namespace: random.bits(),
            pid: integer(random),
            start_ticks: random.bits(),
        },
        phase: *random.pick(&[Phase::PreStart, Phase::Main]),
        started_at: long(random),
    }
}

fn exit_record(random: &mut Random) -> ExitRecord {
    ExitRecord {
        uid: uid(random),
        outcome: *random.pick(&[
            Outcome::Ended,
            Outcome::TimedOut,
            Outcome::StartError,
            Outcome::OomKilled,
            Outcome::PreStartFailed,
            Outcome::Lost,
        ]),
        code: integer(random),
        signal: random.chance(50).then(|| integer(random)),
        started_at: random.chance(50).then(|| long(random)),
        finished_at: long(random),
        message: text(random, 400),
    }
}

fn launch(random: &mut Random) -> Launch {
    let strings = |random: &mut Random| -> Vec<String> {
        (0..random.below(4)).map(|_| text(random, 6)).collect()
    };
    let id = |random: &mut Random| u32::try_from(random.below(9)).ok();
    let hook = |random: &mut Random| {
        random.chance(50).then(|| Hook {
            argv: strings(random),
            timeout_ms: random.chance(50).then(|| random.bits()),
            mode: mode(random),
        })
    };
    Launch {
        job: *random.pick(&[Job::Run, Job::PostStop]),
        uid: uid(random),
        scope: Scope {
            boot: uid(random),
            pid_namespace: random.bits(),
        },
        hints: text(random, 20),
        argv: strings(random),
        env: environment(random),
        working_dir: random.chance(50).then(|| text(random, 9)),
        user: id(random).filter(|id| *id > 3),
        group: id(random).filter(|id| *id > 3),
        groups: id(random).into_iter().collect(),
        rlimits: vec![(integer(random), random.bits(), u64::MAX)],
        timeout_ms: random.chance(50).then(|| random.bits()),
        grace_ms: random.bits(),
        stop_signal: integer(random),
        kill_leftovers: random.chance(50),
        sync: random.chance(50),
        log_bytes_max: random.bits(),
        pre_start: hook(random),
        post_stop: hook(random),
        cgroups: strings(random),
        oom_counters: vec![(text(random, 5), random.bits())],
        mode: mode(random),
        remote: random.chance(50).then(|| remote(random)),
    }
}

fn mode(random: &mut Random) -> Mode {
    *random.pick(&[Mode::Local, Mode::Remote])
}

fn environment(random: &mut Random) -> Vec<Vec<u8>> {
    let entry = |random: &mut Random| random.bits().to_le_bytes().to_vec();
    (0..random.below(4)).map(|_| entry(random)).collect()
}

fn remote(random: &mut Random) -> Remote {
    let id = |random: &mut Random| u32::try_from(random.below(9)).unwrap_or_default();
    Remote {
        pid: integer(random),
        namespaces: integer(random),
        pid_namespace: random.chance(50).then(|| random.bits()),
        env: environment(random),
        user: id(random),
        group: id(random),
        groups: vec![id(random)],
        rlimits: vec![(integer(random), random.bits(), u64::MAX)],
        umask: id(random),
        capabilities: sandbox_sys::Capabilities {
            bounding: random.bits(),
            permitted: random.bits(),
            effective: random.bits(),
            inheritable: random.bits(),
            ambient: random.bits(),
        },
        no_new_privs: random.chance(50),
        cgroups: vec![text(random, 5)],
    }
}

/// Everything that can be written reads back equal, in a reserved slot too.
pub(super) fn check_values(bytes: &[u8]) -> Result<(), String> {
    let mut random = values(bytes);
    let (run, exit, launch) = (
        run_record(&mut random),
        exit_record(&mut random),
        launch(&mut random),
    );
    if RunRecord::decode(&run.encode()).ok().as_ref() != Some(&run) {
        return Err(format!("a run record reads differently: {run:?}"));
    }
    let mut slot = exit.encode();
    slot.resize(slot.len().max(4096), 0);
    for written in [exit.encode(), slot] {
        if ExitRecord::decode(&written).ok().as_ref() != Some(&exit) {
            return Err(format!("an exit record reads differently: {exit:?}"));
        }
    }
    if Launch::decode(&launch.encode()).ok().as_ref() != Some(&launch) {
        return Err(format!("a launch order reads differently: {launch:?}"));
    }
    Ok(())
}

/// A record with one bit flipped, or cut short, is refused or means the same.
pub(super) fn check_flips(bytes: &[u8]) -> Result<(), String> {
    let mut random = values(bytes);
    let (run, exit) = (run_record(&mut random), exit_record(&mut random));
    let post = *random.pick(&[PostRecord::Started, PostRecord::Done]);
    spoil(&run.encode(), &run, RunRecord::decode)?;
    spoil(&exit.encode(), &exit, ExitRecord::decode)?;
    spoil(&post.encode(), &post, PostRecord::decode)
}

fn spoil<T: PartialEq + std::fmt::Debug>(
    good: &[u8],
    meant: &T,
    decode: impl Fn(&[u8]) -> Result<T, RecordError>,
) -> Result<(), String> {
    let check = |bytes: &[u8]| match decode(bytes) {
        Ok(read) if read != *meant => Err(format!(
            "{} reads as {read:?} instead of {meant:?}",
            bytes.escape_ascii()
        )),
        _ => Ok(()),
    };
    let mut bytes = good.to_vec();
    for at in 0..good.len() {
        for bit in 0..8 {
            bytes[at] ^= 1 << bit;
            check(&bytes)?;
            bytes[at] ^= 1 << bit;
        }
        check(&good[..at])?;
    }
    Ok(())
}

/// Encoded records and orders with changes.
pub(super) fn mutated(random: &mut Random) -> Vec<u8> {
    let corpus = [
        run_record(random).encode(),
        exit_record(random).encode(),
        PostRecord::Done.encode(),
        launch(random).encode(),
        Hint::NotStarted(28).line("u-1").into_bytes(),
        b"42 (a) (b c) S 7 42 40 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 9876543 0 0".to_vec(),
    ];
    mutate(random, &corpus, WORDS)
}

/// No bytes make a reader panic; what is accepted is written and read back as the same.
pub(super) fn check_bytes(bytes: &[u8]) -> Result<(), String> {
    if let Ok(run) = RunRecord::decode(bytes)
        && RunRecord::decode(&run.encode()).ok().as_ref() != Some(&run)
    {
        return Err(format!("an accepted run record is not stable: {run:?}"));
    }
    if let Ok(exit) = ExitRecord::decode(bytes)
        && ExitRecord::decode(&exit.encode()).ok().as_ref() != Some(&exit)
    {
        return Err(format!("an accepted exit record is not stable: {exit:?}"));
    }
    if let Ok(post) = PostRecord::decode(bytes)
        && PostRecord::decode(&post.encode()).ok() != Some(post)
    {
        return Err(format!("an accepted post record is not stable: {post:?}"));
    }
    if let Ok(launch) = Launch::decode(bytes)
        && launch.encode() != bytes
    {
        return Err(format!("an order has two encodings: {launch:?}"));
    }
    // Without a panic every answer of these two is right.
    let _ = parse_stat(bytes);
    if let Ok(line) = std::str::from_utf8(bytes) {
        let _ = Hint::parse(line);
    }
    Ok(())
}
