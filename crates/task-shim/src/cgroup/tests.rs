//! Where groups are found, as texts; making and ending them, on this machine's own hierarchies.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::*;

const TOP: &str = "task-executor-1";
const V2_HOST: &str = "\
25 30 0:23 / /sys rw,nosuid shared:7 - sysfs sysfs rw
26 25 0:24 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate";
const V2_CONTAINER: &str = "\
700 650 0:60 / / rw,relatime - overlay overlay rw,lowerdir=/a
712 701 0:29 / /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw";
const V1_CONTAINER: &str = "\
833 832 0:31 /docker/abc /sys/fs/cgroup/cpu,cpuacct rw,relatime master:15 - cgroup cgroup rw,cpu,cpuacct
834 832 0:33 /docker/abc /sys/fs/cgroup/memory ro,relatime master:17 - cgroup cgroup rw,memory
835 832 0:28 /docker/abc /sys/fs/cgroup/systemd ro,relatime - cgroup cgroup rw,xattr,name=systemd";
const V1_CONTAINER_OWN: &str = "\
12:pids:/docker/abc
5:memory:/docker/abc
4:cpu,cpuacct:/docker/abc
1:name=systemd:/docker/abc";
const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime - cgroup cgroup rw,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";
const HYBRID_OWN: &str = "\
8:pids:/
4:memory:/jobs/7
2:cpuacct:/
1:cpu:/
0::/";

/// One line per controller: version and directory, or why not.
fn found(mountinfo: &str, own: &str) -> [String; 3] {
    let homes = Homes::parse(mountinfo, own, TOP);
    Controller::ALL.map(|controller| match homes.of(controller) {
        Ok(home) => format!("{:?} {}", home.version, home.dir.display()),
        Err(why) => why.to_string(),
    })
}

#[test]
fn on_a_v2_host_all_controllers_are_in_one_place() {
    let place = "V2 /sys/fs/cgroup/system.slice/agent.service";
    assert_eq!(
        found(V2_HOST, "0::/system.slice/agent.service\n"),
        [place; 3]
    );
}

#[test]
fn an_agent_that_moved_into_its_own_leaf_still_belongs_to_the_group_above() {
    let own = format!("0::/agent.service/{TOP}/agent");
    assert_eq!(found(V2_HOST, &own), ["V2 /sys/fs/cgroup/agent.service"; 3]);
    let other = found(V2_HOST, "0::/task-executor-2/agent");
    assert_eq!(other, ["V2 /sys/fs/cgroup/task-executor-2/agent"; 3]);
}

#[test]
fn in_a_container_with_its_own_namespace_the_root_is_the_own_group() {
    assert_eq!(
        found(V2_CONTAINER, "0::/"),
        ["/sys/fs/cgroup is mounted read-only"; 3]
    );
    let writable = V2_CONTAINER.replace("ro,nosuid", "rw,nosuid");
    assert_eq!(found(&writable, "0::/"), ["V2 /sys/fs/cgroup"; 3]);
}

#[test]
fn in_a_container_without_one_the_mount_root_is_taken_off() {
    assert_eq!(
        found(V1_CONTAINER, V1_CONTAINER_OWN),
        [
            "V1 /sys/fs/cgroup/cpu,cpuacct",
            "/sys/fs/cgroup/memory is mounted read-only",
            "its cgroup hierarchy is not mounted"
        ]
    );
    let deeper = V1_CONTAINER_OWN.replace("cpuacct:/docker/abc", "cpuacct:/docker/abc/x");
    assert_eq!(
        found(V1_CONTAINER, &deeper)[0],
        "V1 /sys/fs/cgroup/cpu,cpuacct/x"
    );
}

#[test]
fn on_a_hybrid_host_v1_is_used_where_it_has_the_controller() {
    assert_eq!(
        found(HYBRID, HYBRID_OWN),
        [
            "V1 /sys/fs/cgroup/cpu",
            "V1 /sys/fs/cgroup/memory/jobs/7",
            "V1 /sys/fs/cgroup/pids"
        ]
    );
}

#[test]
fn a_group_that_can_not_be_named_is_not_guessed() {
    let outside = "the agent's own cgroup is not below what is mounted at /sys/fs/cgroup";
    let mounted_from_outside = V2_HOST.replace("0:24 /", "0:24 /../..");
    assert_eq!(found(&mounted_from_outside, "0::/"), [outside; 3]);
    assert_eq!(found(V2_HOST, "0::/../other"), [outside; 3]);
    // A name that only begins alike is another group.
    let alike = V2_HOST.replace("0:24 /", "0:24 /docker/ab");
    assert_eq!(found(&alike, "0::/docker/abc"), [outside; 3]);
    assert_eq!(
        found("", "0::/"),
        ["its cgroup hierarchy is not mounted"; 3]
    );
    assert_eq!(found("", ""), ["the kernel has no such controller"; 3]);
}

#[test]
fn a_mount_over_another_hides_it_and_a_writable_one_elsewhere_is_preferred() {
    let over = format!("{V2_HOST}\n{}", V2_CONTAINER.replace("700 ", "90 "));
    assert_eq!(
        found(&over, "0::/"),
        ["/sys/fs/cgroup is mounted read-only"; 3]
    );
    let beside = "50 1 0:24 / /my\\040cgroups rw - cgroup2 none rw";
    for text in [
        format!("{beside}\n{V2_CONTAINER}"),
        format!("{V2_CONTAINER}\n{beside}"),
    ] {
        assert_eq!(found(&text, "0::/"), ["V2 /my cgroups"; 3]);
    }
}

#[test]
fn lines_that_are_no_mounts_are_passed_over() {
    let odd = "\\\n - \n1 2 3\n1 2 3:4 / /x\\9 rw - cgroup2\n\\04 - a b c";
    assert_eq!(
        found(odd, "::\n0\n:"),
        ["its cgroup hierarchy is not mounted"; 3]
    );
}

/// A v2 group as plain files, for what this machine's own v2 hierarchy does not have.
fn imitation(dir: &Path, controllers: &str) {
    fs::create_dir_all(dir).expect("is made");
    for (name, text) in [
        ("cgroup.controllers", controllers),
        ("cgroup.subtree_control", "memory pids\n"),
        ("cgroup.procs", ""),
        ("cpu.max", "max 100000\n"),
        ("memory.max", "max\n"),
        (
            "memory.events",
            "low 0\noom 3\noom_kill 2\noom_group_kill 0\n",
        ),
        ("pids.max", "max\n"),
    ] {
        fs::write(dir.join(name), text).expect("is written");
    }
}

#[test]
fn on_v2_one_group_has_all_limits_and_a_missing_controller_is_named() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let home = dir.path().join("own");
    for group in [home.clone(), home.join(TOP), home.join(TOP).join("u-1")] {
        imitation(&group, "memory pids\n");
    }
    let mounts = format!("1 1 0:1 / {} rw - cgroup2 none rw", dir.path().display());
    let homes = Homes::parse(&mounts, "0::/own", TOP);
    let limits = Limits {
        cpu_millis: Some(500),
        memory_bytes: Some(1 << 20),
        pids: Some(9),
    };
    let made = make(&homes, TOP, "u-1", &limits);
    let group = home.join(TOP).join("u-1");
    assert_eq!(made.dirs, std::slice::from_ref(&group));
    assert_eq!(made.oom_counters, [(group.join("memory.events"), 2)]);
    let missing: Vec<_> = made.missing.iter().map(ToString::to_string).collect();
    let expected = format!(
        "resources.limits.cpu is not enforced: the controller is not delegated: it is not in {}/cgroup.controllers",
        home.display()
    );
    assert_eq!(missing, [expected]);
    let read = |name| fs::read_to_string(group.join(name)).expect("reads");
    // The file keeps what it had beyond what is written to it; a kernel's does not.
    assert!(read("memory.max").starts_with("1048576"));
    assert!(read("pids.max").starts_with('9'));
    assert_eq!(read("cpu.max"), "max 100000\n");
    assert!(!group.join("memory.swap.max").exists());
    assert!(
        homes
            .of(Controller::Pids)
            .expect("is there")
            .check(Controller::Pids)
            .is_ok()
    );
    assert!(
        homes
            .of(Controller::Cpu)
            .expect("is there")
            .check(Controller::Cpu)
            .is_err()
    );
}

/// Says why a test can't do its work here; on the build machine that is a failure.
fn skip(why: &str) {
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "missing prerequisite: {why}"
    );
    println!("skipped: {why}");
}

/// A group of this test's own, ended and removed with this value.
struct Scratch(PathBuf);

impl Scratch {
    fn new(home: &Path, name: &str) -> io::Result<Self> {
        let dir = home.join(format!("task-executor-test-{}-{name}", std::process::id()));
        fs::create_dir(&dir).map(|()| Self(dir))
    }

    fn end(&self) -> bool {
        let until = Instant::now() + Duration::from_secs(20);
        while Instant::now() < until {
            group::kill(&self.0);
            if group::remove(&self.0).expect("no error") {
                return true;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        false
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        assert!(self.end(), "{} could not be removed", self.0.display());
    }
}

/// Directories of this process's own groups that can have children: v2 without any
/// controller counts too, since ending and removing need none.
fn own_groups() -> Vec<PathBuf> {
    let homes = Homes::current(TOP).expect("proc is there");
    let mut dirs: Vec<_> = homes.dirs().into_iter().map(Path::to_owned).collect();
    let own = fs::read_to_string("/proc/self/cgroup").expect("reads");
    let v2_only = own
        .lines()
        .filter(|line| line.starts_with("0::"))
        .collect::<String>();
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("reads");
    if let Ok(home) = Homes::parse(&mounts, &v2_only, TOP).of(Controller::Pids) {
        dirs.push(home.dir.clone());
    }
    dirs
}

#[test]
fn a_group_is_ended_with_its_daemons_and_subgroups_and_removed() {
    let mut done = 0;
    for home in own_groups() {
        let Ok(scratch) = Scratch::new(&home, "end") else {
            continue;
        };
        let below = scratch.0.join("below");
        fs::create_dir(&below).expect("a group below");
        // The shell joins, then leaves a daemon in a session of its own.
        let script = format!(
            "echo 0 > {}/cgroup.procs; setsid sleep 987655 & echo 0 > {}/cgroup.procs; exec sleep 987655",
            below.display(),
            scratch.0.display()
        );
        let mut child = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("sh starts");
        let until = Instant::now() + Duration::from_secs(20);
        let both = || group::members(&below).len() == 1 && group::members(&scratch.0).len() == 2;
        while !both() {
            assert!(Instant::now() < until, "the processes join");
            std::thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(group::remove(&scratch.0).ok(), Some(false), "it is in use");
        group::kill(&scratch.0);
        child.wait().expect("is reaped");
        assert!(scratch.end(), "{} is removed", scratch.0.display());
        assert!(!scratch.0.exists());
        assert_eq!(group::remove(&scratch.0).ok(), Some(true), "gone is gone");
        done += 1;
    }
    if done == 0 {
        skip("no cgroup here that is writable");
    }
}

#[test]
fn the_kernel_reads_back_the_limits_that_were_set() {
    let homes = Homes::current(TOP).expect("proc is there");
    let top = format!("task-executor-test-{}-set", std::process::id());
    let limits = Limits {
        cpu_millis: Some(250),
        memory_bytes: Some(64 << 20),
        pids: Some(12),
    };
    let made = make(&homes, &top, "u", &limits);
    if made.dirs.is_empty() {
        return skip(&format!("no limit can be had here: {:?}", made.missing));
    }
    let again = make(&homes, &top, "u", &limits);
    assert_eq!(again, made, "groups that are there are used again");
    for dir in &made.dirs {
        for (name, expected) in [
            ("cpu.cfs_quota_us", "25000\n"),
            ("cpu.max", "25000 100000\n"),
            ("memory.limit_in_bytes", "67108864\n"),
            ("memory.max", "67108864\n"),
            ("pids.max", "12\n"),
        ] {
            if let Ok(text) = fs::read_to_string(dir.join(name)) {
                assert_eq!(text, expected, "{name} in {}", dir.display());
            }
        }
        assert_eq!(group::remove(dir).ok(), Some(true));
        let top = dir.parent().expect("is below top");
        assert_eq!(group::remove(top).ok(), Some(true));
    }
}

#[test]
fn on_v2_what_descends_from_us_moves_to_a_leaf_before_controllers_are_passed_on() {
    // The kernel's rule shows only in a group below one that passes some controller on.
    let Some(home) = own_groups()
        .into_iter()
        .find(|dir| dir.join(delegate::SUBTREE).exists())
    else {
        println!("skipped: no v2 hierarchy");
        return;
    };
    let listed = fs::read_to_string(home.join(delegate::SUBTREE)).unwrap_or_default();
    let Some(name) = listed.split_ascii_whitespace().next() else {
        println!("skipped: {} passes no controller on", home.display());
        return;
    };
    let Ok(scratch) = Scratch::new(&home, "rule") else {
        println!("skipped: {} is not writable", home.display());
        return;
    };
    let top = scratch.0.join(TOP);
    fs::create_dir(&top).expect("is made");
    let join = |pid: &str| put(&scratch.0.join("cgroup.procs"), pid).expect("moves");
    // An orphan is nobody's descendant, so it is not ours to move.
    let orphan = Command::new("sh")
        .args(["-c", "sleep 987657 > /dev/null 2>&1 & echo $!"])
        .output()
        .expect("sh starts");
    let orphan = String::from_utf8_lossy(&orphan.stdout).trim().to_owned();
    join(&orphan);
    let refused = delegate::enable(&scratch.0, &top, name).expect_err("is in the way");
    let other = format!(
        "{} has other processes in it, such as {orphan}",
        scratch.0.display()
    );
    assert_eq!(refused.to_string(), other);
    let until = Instant::now() + Duration::from_secs(20);
    while !group::members(&scratch.0).is_empty() {
        assert!(Instant::now() < until, "the orphan ends");
        group::kill(&scratch.0);
    }
    let mut child = Command::new("sleep")
        .arg("987656")
        .spawn()
        .expect("sleep starts");
    join(&child.id().to_string());
    delegate::enable(&scratch.0, &top, name).expect("what descends from us is moved");
    let leaf = fs::read_to_string(top.join("agent/cgroup.procs")).expect("reads");
    assert_eq!(leaf.trim(), child.id().to_string());
    let passed = fs::read_to_string(top.join(delegate::SUBTREE)).expect("reads");
    assert!(passed.contains(name));
    child.kill().expect("is killed");
    child.wait().expect("is reaped");
}
