//! The native half of the npm package virtio-iommu: guest RAM, gather windows and VFIO calls, many per call.
//!
//! It decides nothing: it does what it is told, and refuses what would harm the process. What may be given to a device is
//! memory of the registry only; handles close what they own when they go away; no panic crosses into JavaScript (napi-rs
//! turns one into an exception). `addon` is the glue to Node; everything else knows nothing of Node.

#![warn(clippy::undocumented_unsafe_blocks, clippy::missing_safety_doc, clippy::unwrap_used)]

pub mod abi;
pub mod addon;
pub mod batch;
pub mod chain;
pub mod container;
pub mod device;
pub mod failure;
#[cfg(test)]
mod fake;
pub mod ioctl;
pub mod iommufd;
pub mod iommufd_abi;
pub mod iommufd_areas;
pub mod iommufd_batch;
pub mod iommufd_device;
#[cfg(test)]
mod iommufd_fake;
pub mod pages;
pub mod poll;
pub mod probe;
pub mod ram;
pub mod registry;
pub mod socket;
pub mod socket_signal;
pub mod sys;
pub mod windows;
