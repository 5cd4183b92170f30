//! The rules by which the main container is chosen, on tables of processes.

use super::*;

const OWN: u64 = 100;
const PAUSE: u64 = 101;
const MAIN: u64 = 102;

fn seen(pid: i32, parent: i32, start_ticks: u64, mount: u64) -> Seen {
    Seen {
        pid,
        parent,
        start_ticks,
        kind: Kind::Other,
        marked: false,
        mount: Some(mount),
        near: true,
    }
}

fn marked(seen: Seen) -> Seen {
    Seen {
        marked: true,
        ..seen
    }
}

/// A Pod that shares its PID namespace: pause, and an agent with a shim and its task.
fn pod_with(more: &[Seen]) -> Vec<Seen> {
    let agent = |seen| Seen {
        kind: Kind::Agent,
        ..seen
    };
    let mut all = vec![
        seen(1, 0, 1, PAUSE),
        Seen {
            kind: Kind::Own,
            ..marked(seen(10, 1, 5, OWN))
        },
        agent(seen(11, 10, 6, OWN)),
        agent(seen(12, 11, 6, OWN)),
        agent(seen(13, 12, 7, OWN)),
        marked(seen(14, 13, 7, MAIN)),
        marked(seen(15, 14, 8, MAIN)),
    ];
    all.extend(more);
    all
}

fn chosen(more: &[Seen]) -> Result<i32, Absent> {
    choose(&pod_with(more), OWN, "main").map(|found| found.pid.as_raw())
}

#[test]
fn the_oldest_marked_process_is_chosen_and_never_one_of_a_task() {
    let main = marked(seen(30, 1, 20, MAIN));
    let child = marked(seen(20, 30, 21, MAIN));
    assert_eq!(chosen(&[child, main]), Ok(30));
    // In the same tick the parent has, but for a wrap, the lower number.
    let twin = marked(seen(31, 30, 20, MAIN));
    assert_eq!(chosen(&[twin, main, seen(40, 1, 2, 103)]), Ok(30));
}

#[test]
fn without_a_mark_the_only_other_container_is_chosen() {
    let main = [seen(31, 1, 21, MAIN), seen(30, 1, 20, MAIN)];
    assert_eq!(chosen(&main), Ok(30));
    let far = Seen {
        near: false,
        ..seen(40, 1, 3, 103)
    };
    let foreign = Seen {
        kind: Kind::Foreign,
        ..marked(seen(41, 1, 3, 104))
    };
    let unknown = Seen {
        mount: None,
        ..seen(42, 1, 3, 0)
    };
    assert_eq!(chosen(&[main[1], far, foreign, unknown]), Ok(30));
}

#[test]
fn nothing_and_several_are_told_apart_and_neither_is_guessed() {
    assert!(matches!(chosen(&[]), Err(Absent::NotFound(_))));
    let two = [seen(30, 1, 20, MAIN), seen(40, 1, 21, 103)];
    let Err(Absent::Ambiguous(text)) = chosen(&two) else {
        panic!("two containers are ambiguous");
    };
    assert!(text.contains("30, 40") && text.contains("=main"), "{text}");
}

#[test]
fn a_chain_of_parents_that_was_read_torn_ends() {
    let loop_of_two = [seen(30, 31, 20, MAIN), seen(31, 30, 20, MAIN)];
    assert_eq!(chosen(&loop_of_two), Ok(30));
}

#[test]
fn pods_are_told_apart_by_the_paths_of_their_groups() {
    let one = "0::/kubepods/burstable/pod0a1b2c3d-0000-1111-2222-333344445555/aa";
    let same = "0::/kubepods.slice/kubepods-pod0a1b2c3d_0000_1111_2222_333344445555.slice/bb";
    let other = "0::/kubepods/pod99999999-0000-1111-2222-333344445555/aa";
    let own = pod(one);
    assert_eq!(own.as_deref(), Some("0a1b2c3d-0000-1111-2222-333344445555"));
    assert!(!is_foreign(own.as_deref(), same) && is_foreign(own.as_deref(), other));
    assert_eq!(pod("0::/user.slice/podman-1.scope"), None);
    // In a cgroup namespace of the agent's own.
    assert!(!is_foreign(None, "0::/../bb"));
    assert!(is_foreign(None, &other.replace("::/", "::/../../")));
}
