//! Between the units of the input and the space in which a model works.

use super::spec::NormalisationKind;

/// A learnt affine map per feature: normalised = (x - offset) / scale. No vectors for [`NormalisationKind::None`].
#[derive(Clone, Debug, PartialEq)]
pub struct Normaliser {
    /// How it was learnt.
    pub kind: NormalisationKind,
    /// (d_0,), or empty for `None`.
    pub offset: Vec<f32>,
    /// (d_0,), each finite and above 0, or empty for `None`.
    pub scale: Vec<f32>,
}
