//! Every matrix product of the program.
//!
//! TODO(A1): through faer, single-threaded, on padded column-major lanes.

/// A weight matrix W of shape (outputs, inputs). Both directions of a tied layer read this one copy.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    values: Vec<f32>,
    outputs: usize,
    inputs: usize,
}

impl Weights {
    /// From row-major (outputs, inputs) values.
    ///
    /// # Panics
    /// If there are not `outputs * inputs` of them.
    pub fn from_row_major(outputs: usize, inputs: usize, values: Vec<f32>) -> Self {
        assert_eq!(values.len(), outputs * inputs, "outputs x inputs values");
        Self { values, outputs, inputs }
    }
    /// Rows of W.
    pub fn outputs(&self) -> usize {
        self.outputs
    }
    /// Columns of W.
    pub fn inputs(&self) -> usize {
        self.inputs
    }
    /// W in row-major order, as the file holds it. (Other layouts in memory will make this an iterator or a copy.)
    pub fn row_major(&self) -> &[f32] {
        &self.values
    }
    /// The same, for the optimiser.
    pub fn row_major_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }
}
