//! The test ground itself, tried on a real API server: what the tests of the operator rely on.

mod control_plane;
mod crds;
mod kubelet;
