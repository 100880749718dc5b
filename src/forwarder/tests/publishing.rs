//! publishing
