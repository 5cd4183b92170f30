//! Capabilities of this process (capabilities(7)), as bit sets.

use std::io;

/// The five sets of a process. Bit n stands for the capability with number n.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// What can ever be had.
    pub bounding: u64,
    /// What may be made effective.
    pub permitted: u64,
    /// What counts.
    pub effective: u64,
    /// What files may add to.
    pub inheritable: u64,
    /// What a program without such files keeps.
    pub ambient: u64,
}

/// Capabilities have numbers below this one.
const NUMBERS: u32 = 64;
/// `_LINUX_CAPABILITY_VERSION_3`: 64 bits, in two halves.
const VERSION: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Half {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

fn half(bits: u64, shift: u32) -> u32 {
    u32::try_from(bits >> shift & u64::from(u32::MAX)).unwrap_or_default()
}

/// prctl(2) with numbers only.
fn prctl(option: i32, first: u32, second: u32) -> io::Result<i32> {
    let [first, second, none] = [first, second, 0].map(libc::c_ulong::from);
    // SAFETY: the options used here take integers and touch no memory of ours.
    let done = unsafe { libc::prctl(option, first, second, none, none) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(done)
}

/// The numbers of the capabilities in a set.
fn members(set: u64) -> impl Iterator<Item = u32> {
    (0..NUMBERS).filter(move |number| set >> number & 1 == 1)
}

impl Capabilities {
    /// Takes out of the bounding set of this process all that are not in this one. `EPERM`
    /// without `CAP_SETPCAP` if there are any.
    pub fn limit_bounding(&self) -> io::Result<()> {
        for number in members(!self.bounding) {
            // Numbers that the kernel does not know are an error, and nothing to drop.
            if prctl(libc::PR_CAPBSET_READ, number, 0).is_ok_and(|has| has == 1) {
                prctl(libc::PR_CAPBSET_DROP, number, 0)?;
            }
        }
        Ok(())
    }

    /// Gives this process these permitted, effective, inheritable and ambient sets (capset(2)).
    /// They must be among the permitted ones of now.
    pub fn set(&self) -> io::Result<()> {
        let header = Header {
            version: VERSION,
            pid: 0,
        };
        let halves = [0, 32].map(|shift| Half {
            effective: half(self.effective, shift),
            permitted: half(self.permitted, shift),
            inheritable: half(self.inheritable, shift),
        });
        // SAFETY: both structures have the layout that this version asks for, live on during
        // the call and are only read.
        let done = unsafe { libc::syscall(libc::SYS_capset, &raw const header, halves.as_ptr()) };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
        let clear = u32::try_from(libc::PR_CAP_AMBIENT_CLEAR_ALL).map_err(io::Error::other)?;
        let raise = u32::try_from(libc::PR_CAP_AMBIENT_RAISE).map_err(io::Error::other)?;
        prctl(libc::PR_CAP_AMBIENT, clear, 0)?;
        for number in members(self.ambient) {
            prctl(libc::PR_CAP_AMBIENT, raise, number)?;
        }
        Ok(())
    }
}
