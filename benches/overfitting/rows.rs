//! Training rows and held-out rows, with values from 0 to 1.

use std::ops::ControlFlow;
use std::path::Path;

use halfhitch::files::{self, ReadOptions};
use halfhitch::numeric::PanelMatrix;
use halfhitch::numeric::linalg::{Pca, RowsInTurn};
use halfhitch::numeric::rng::{Stream, Use};

use super::support::data;

/// Number of held-out rows measured at a time.
const BLOCK_ROWS: usize = 256;
/// Number of held-out digits.
const HELD_OUT_DIGITS: usize = 797;

/// A row-major table.
pub(super) struct Table {
    values: Vec<f32>,
    columns: usize,
}

/// Rows available for training, and held-out rows.
pub(super) struct Rows {
    training: Table,
    held_out: Table,
    in_blocks: Vec<PanelMatrix>,
}

/// The training images, and every other test image, because the writers change in the middle of the test images. `None`
/// if the images are not available.
pub(super) fn mnist() -> Option<Rows> {
    let folder = data::folder().map(|folder| folder.join("mnist")).filter(|folder| folder.is_dir())?;
    let read = |name| Table::read(&folder.join(name), &ReadOptions::default(), 255.0);
    let (training, test) = (read("train-images-idx3-ubyte.gz"), read("t10k-images-idx3-ubyte.gz"));
    let every_other: Vec<usize> = (0..test.rows()).step_by(2).collect();
    Some(Rows::new(training, test.only(&every_other)))
}

/// The digits of the quickstart.
pub(super) fn digits() -> Rows {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/digits.csv.gz");
    // The last column is the label.
    let options = ReadOptions { drop_columns: vec!["65".to_owned()], ..ReadOptions::default() };
    let all = Table::read(&path, &options, 16.0);
    let mut order: Vec<usize> = (0..all.rows()).collect();
    Stream::new(0, 0, 0, Use::Split).shuffle(&mut order);
    let training = order.split_off(HELD_OUT_DIGITS);
    Rows::new(all.only(&training), all.only(&order))
}

impl Table {
    fn read(path: &Path, options: &ReadOptions, most: f32) -> Self {
        let mut reader = files::open(path, options).expect("rows");
        let mut values = Vec::new();
        while reader.next_rows(&mut values, 10_000).expect("rows") > 0 {}
        let mut values = files::narrow(&values);
        values.iter_mut().for_each(|value| *value /= most);
        Self { values, columns: reader.columns() }
    }

    fn only(&self, rows: &[usize]) -> Self {
        let values = rows.iter().flat_map(|row| self.row(*row)).copied().collect();
        Self { values, columns: self.columns }
    }

    pub(super) fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.columns..][..self.columns]
    }

    /// The rows, in blocks of `BLOCK_ROWS`.
    pub(super) fn lanes(&self) -> Vec<PanelMatrix> {
        let blocks = self.values.chunks(BLOCK_ROWS * self.columns).map(|values| {
            let mut lanes = PanelMatrix::zeros(values.len() / self.columns, self.columns);
            lanes.load(0, values);
            lanes
        });
        blocks.collect()
    }
}

impl RowsInTurn for Table {
    fn rows(&self) -> usize {
        self.values.len() / self.columns
    }

    fn columns(&self) -> usize {
        self.columns
    }

    fn each(&self, found: &mut dyn FnMut(&[f64]) -> ControlFlow<()>) -> ControlFlow<()> {
        let mut wide = vec![0.0; self.columns];
        self.values.chunks_exact(self.columns).try_for_each(|row| {
            wide.iter_mut().zip(row).for_each(|(wide, value)| *wide = f64::from(*value));
            found(&wide)
        })
    }
}

impl Rows {
    fn new(training: Table, held_out: Table) -> Self {
        Self { training, in_blocks: held_out.lanes(), held_out }
    }

    /// `count` training rows, a different choice for every seed.
    pub(super) fn training(&self, count: usize, seed: u64) -> Table {
        let mut order: Vec<usize> = (0..self.training.rows()).collect();
        Stream::new(seed, 0, 0, Use::Sample).shuffle(&mut order);
        self.training.only(&order[..count])
    }

    /// The held-out rows, in blocks of `BLOCK_ROWS`.
    pub(super) fn held_out(&self) -> &[PanelMatrix] {
        &self.in_blocks
    }

    /// Mean squared error of PCA on the held-out rows.
    pub(super) fn error_of(&self, pca: &Pca) -> f64 {
        let mut sum = 0.0;
        pca.residuals(&self.held_out, |_, left| sum += left.iter().map(|left| left * left).sum::<f64>());
        sum / self.held_out.rows() as f64
    }
}
