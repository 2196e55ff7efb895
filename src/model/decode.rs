//! Decoding: with the transpose or the pseudo-inverse of each matrix, and what needs it: reconstruction, errors of rows
//! and missing values.

use super::autoencoder::{Autoencoder, Space};
use super::inverse::PseudoInverse;
use crate::numeric::{BufferPool, PanelMatrix};

/// The matrices that decode.
#[derive(Clone, Copy, Debug)]
pub enum Decoder<'a> {
    /// Wᵀ, as trained.
    Transpose,
    /// W⁺: see [`PseudoInverse`].
    PseudoInverse(&'a PseudoInverse),
}

/// Reconstructed rows and their errors.
#[derive(Debug)]
pub struct Reconstruction {
    /// x̂, (n, d_0), in the space of the input rows.
    pub rows: PanelMatrix,
    /// Per row: sum over features of (x - x̂)², normalized space.
    pub squared_errors: Vec<f32>,
    /// Per row: the same sum in the units of the input.
    pub squared_errors_input_units: Vec<f32>,
}

impl Autoencoder {
    /// Decodes codes (n, d_K) to rows (n, d_0) in input units. A row has the same bits in every batch.
    ///
    /// # Panics
    /// If the codes are not d_K wide; callers check that earlier.
    pub fn decode(&self, codes: &PanelMatrix, decoder: Decoder<'_>, buffers: &mut BufferPool) -> PanelMatrix {
        let mut rows = self.decode_normalized(codes, decoder, buffers);
        self.normalizer().undo(&mut rows);
        rows
    }

    /// [`Autoencoder::decode`] to rows in a space.
    ///
    /// # Panics
    /// If the codes are not d_K wide; callers check that earlier.
    pub fn decode_in(
        &self,
        space: Space,
        codes: &PanelMatrix,
        decoder: Decoder<'_>,
        buffers: &mut BufferPool,
    ) -> PanelMatrix {
        match space {
            Space::Input => self.decode(codes, decoder, buffers),
            Space::Normalized => self.decode_normalized(codes, decoder, buffers),
        }
    }

    /// Encodes rows (n, d_0) and decodes them, with the error of each row. Missing values have no error.
    ///
    /// # Panics
    /// If the rows are not d_0 wide; callers check that earlier.
    pub fn reconstruct(&self, rows: &PanelMatrix, decoder: Decoder<'_>, buffers: &mut BufferPool) -> Reconstruction {
        let mut x = buffers.take();
        self.normalizer().apply_to(rows, &mut x);
        let codes = self.encode_with_missing(&x, buffers);
        let mut x_hat = self.decode_normalized(&codes, decoder, buffers);
        let squared_errors = squared_distances(&x, &x_hat);
        self.normalizer().undo(&mut x_hat);
        let squared_errors_input_units = squared_distances(rows, &x_hat);
        buffers.put(codes);
        buffers.put(x);
        Reconstruction { rows: x_hat, squared_errors, squared_errors_input_units }
    }

    /// [`Autoencoder::reconstruct`] of rows in a space, to rows in that space.
    ///
    /// # Panics
    /// If the rows are not d_0 wide; callers check that earlier.
    pub fn reconstruct_in(
        &self,
        space: Space,
        rows: &PanelMatrix,
        decoder: Decoder<'_>,
        buffers: &mut BufferPool,
    ) -> Reconstruction {
        if space == Space::Input {
            return self.reconstruct(rows, decoder, buffers);
        }
        let codes = self.encode_with_missing(rows, buffers);
        let x_hat = self.decode_normalized(&codes, decoder, buffers);
        let squared_errors = squared_distances(rows, &x_hat);
        let squared_errors_input_units = self.squared_distances_input_units(rows, &x_hat);
        buffers.put(codes);
        Reconstruction { rows: x_hat, squared_errors, squared_errors_input_units }
    }

    /// Encodes rows (n, d_0) in input units to codes (n, d_K), with the squared error of each reconstruction in the
    /// normalized space. The bits are those of [`Autoencoder::encode`] and [`Autoencoder::reconstruct`].
    ///
    /// # Panics
    /// If the rows are not d_0 wide; callers check that earlier.
    pub fn encode_with_errors(&self, rows: &PanelMatrix, buffers: &mut BufferPool) -> (PanelMatrix, Vec<f32>) {
        let mut x = buffers.take();
        self.normalizer().apply_to(rows, &mut x);
        let found = self.encode_normalized_with_errors(&x, buffers);
        buffers.put(x);
        found
    }

    /// [`Autoencoder::encode_with_errors`] of rows in the normalized space.
    ///
    /// # Panics
    /// If the rows are not d_0 wide; callers check that earlier.
    pub fn encode_normalized_with_errors(&self, x: &PanelMatrix, buffers: &mut BufferPool) -> (PanelMatrix, Vec<f32>) {
        let codes = self.encode_with_missing(x, buffers);
        let x_hat = self.decode_normalized(&codes, Decoder::Transpose, buffers);
        let squared_errors = squared_distances(x, &x_hat);
        buffers.put(x_hat);
        (codes, squared_errors)
    }

    /// Rows (n, d_0) in the units of the input, with missing values replaced by their reconstruction and all others
    /// unchanged. A row has the same bits in every batch.
    ///
    /// # Panics
    /// If the rows are not d_0 wide; callers check that earlier.
    pub fn impute(&self, rows: &PanelMatrix, buffers: &mut BufferPool) -> PanelMatrix {
        let Reconstruction { rows: mut whole, .. } = self.reconstruct(rows, Decoder::Transpose, buffers);
        for (whole, value) in whole.values_mut().iter_mut().zip(rows.values()) {
            *whole = if value.is_nan() { *whole } else { *value };
        }
        whole
    }

    /// [`Autoencoder::impute`] of rows in a space. In the normalized space every value of the result is a
    /// reconstruction; the writer of the response keeps the present values, in 64 bits.
    ///
    /// # Panics
    /// If the rows are not d_0 wide; callers check that earlier.
    pub fn impute_in(&self, space: Space, rows: &PanelMatrix, buffers: &mut BufferPool) -> PanelMatrix {
        match space {
            Space::Input => self.impute(rows, buffers),
            Space::Normalized => self.reconstruct_in(space, rows, Decoder::Transpose, buffers).rows,
        }
    }

    /// Decodes codes to normalized rows.
    fn decode_normalized(&self, codes: &PanelMatrix, decoder: Decoder<'_>, buffers: &mut BufferPool) -> PanelMatrix {
        let mut g: Option<PanelMatrix> = None;
        if let Decoder::PseudoInverse(inverse) = decoder {
            for l in (0..self.layers().len()).rev() {
                let next = inverse.decode_layer(self, l, g.as_ref().unwrap_or(codes), buffers);
                g.replace(next).into_iter().for_each(|done| buffers.put(done));
            }
            return g.unwrap_or_default();
        }
        for (layer, activation) in self.layers().iter().zip(&self.spec().raw().decoder_activations).rev() {
            if let Some(gain) = &layer.gain {
                let mut scaled = buffers.take();
                scaled.map_columns_from(g.as_ref().unwrap_or(codes), [gain], |value, [gain]| value * gain);
                g.replace(scaled).into_iter().for_each(|done| buffers.put(done));
            }
            let mut next = buffers.take();
            layer.weight.decode_layer(g.as_ref().unwrap_or(codes), &layer.decoder_bias, *activation, &mut next);
            g.replace(next).into_iter().for_each(|done| buffers.put(done));
        }
        g.unwrap_or_default()
    }

    /// Per row: the sum over features of (x - x̂)² in the units of the input, from rows in the normalized space. The
    /// offset cancels, so that a large offset loses no digits. Summed in f64 in the order of the features, without
    /// missing values.
    fn squared_distances_input_units(&self, x: &PanelMatrix, x_hat: &PanelMatrix) -> Vec<f32> {
        let mut sums = vec![0.0f64; x.rows()];
        for ((first, rows, x), (_, _, x_hat)) in x.panels().zip(x_hat.panels()) {
            let sums = &mut sums[first..first + rows];
            for (j, (x, x_hat)) in x.chunks_exact(rows).zip(x_hat.chunks_exact(rows)).enumerate() {
                let scale = f64::from(self.normalizer().unit(j));
                sums.iter_mut().zip(x.iter().zip(x_hat)).filter(|(_, (x, _))| !x.is_nan()).for_each(
                    |(sum, (x, x_hat))| {
                        let error = (f64::from(*x) - f64::from(*x_hat)) * scale;
                        *sum += error * error;
                    },
                );
            }
        }
        sums.into_iter().map(|sum| sum as f32).collect()
    }
}

/// Per row: the sum over columns of (a - b)² in the order of the columns, without missing values of a.
fn squared_distances(a: &PanelMatrix, b: &PanelMatrix) -> Vec<f32> {
    let mut sums = vec![0.0f32; a.rows()];
    for ((first, rows, a), (_, _, b)) in a.panels().zip(b.panels()) {
        let sums = &mut sums[first..first + rows];
        for (a, b) in a.chunks_exact(rows).zip(b.chunks_exact(rows)) {
            sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| {
                *sum += if a.is_nan() { 0.0 } else { (a - b) * (a - b) };
            });
        }
    }
    sums
}
