//! provisional
use super::core::Core;
use crate::api::types::Finding;
pub(super) async fn examine(_core: &Core) -> Vec<Finding> { Vec::new() }
