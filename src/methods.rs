//! Operations on rows.
//!
//! At the lowest level, because access control, metrics and traces need them as well as batching.

macro_rules! operations {
    ($($(#[$doc:meta])* $operation:ident $word:literal;)*) => {
        /// Operation on rows or codes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Operation {
            $($(#[$doc])* $operation,)*
        }

        impl Operation {
            /// All operations, in the order of their numbers.
            pub const ALL: [Self; [$($word),*].len()] = [$(Self::$operation),*];

            /// Name for labels, in snake case.
            pub fn word(self) -> &'static str {
                match self {
                    $(Self::$operation => $word,)*
                }
            }
        }
    };
}

operations! {
    /// Rows to codes.
    Encode "encode";
    /// Codes to rows.
    Decode "decode";
    /// Rows to rows, with reconstruction errors.
    Reconstruct "reconstruct";
    /// Codes to rows, with the pseudo-inverse of each matrix.
    DecodePseudoInverse "decode_pseudo_inverse";
    /// Rows to rows, with reconstruction errors, likewise with the pseudo-inverse.
    ReconstructPseudoInverse "reconstruct_pseudo_inverse";
    /// Rows to anomaly scores: squared errors and squared distances of their codes.
    Score "score";
    /// Like [`Operation::Score`], with the contribution of each feature.
    Explain "explain";
    /// Rows with missing values to complete rows; only for models that accept missing values.
    Impute "impute";
}
