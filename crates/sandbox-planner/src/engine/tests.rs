//! Tests of the engine: what it asks for, in which order, and what it leaves alone.

mod events;
mod fixtures;
mod restart;
mod stale;
mod writes;
