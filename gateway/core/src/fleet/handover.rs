//! Whether a member hands over.

/// Whether a member hands over what it owns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Handover {
    /// It does not.
    #[default]
    None,
    /// To those that are ready, and it keeps what these do not take. This can be taken back.
    Draining,
    /// To whoever takes it: the process stops soon.
    Leaving,
}
