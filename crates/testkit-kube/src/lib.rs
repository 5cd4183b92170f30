//! A real control plane, a test kubelet and fake agents, for tests of the operator; never part of a shipped program.
#![forbid(unsafe_code)]
