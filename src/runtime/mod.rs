//! The only readers of the operating system's time, and what keeps tasks in order.

pub mod clock;
