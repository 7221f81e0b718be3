//! What keeps a process in order: the only readers of the operating system's time and memory figures, named tasks,
//! and the signals that end it.

pub mod clock;
pub mod memory;
pub mod stop;
pub mod tasks;
