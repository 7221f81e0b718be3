//! Promises of the buffer.
