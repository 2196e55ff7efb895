//! Tests of the spool.

use proptest::prelude::*;

use super::*;
use crate::jobs::tests::OneJob;

fn rows(values: &[f32]) -> Matrix {
    Matrix::new((values.len() / 2) as u32, 2, Values::Floats(values.to_vec())).expect("whole rows")
}

fn wide_rows(values: &[f64]) -> Matrix {
    Matrix::new((values.len() / 2) as u32, 2, Values::from_f64(values)).expect("whole rows")
}

/// Writes chunks of binary32, binary64, binary32 and binary64; returns the length of the spool after each.
fn mixed(job: &OneJob) -> Vec<u64> {
    let mut spool = Spool::create(&job.store, &job.id, 2).expect("creates");
    let chunks = [
        (RowRole::Training, rows(&[1.0, 2.0, 3.0, 4.0])),
        (RowRole::Training, wide_rows(&[1_700_000_001.0, 1e12 + 1.0])),
        (RowRole::Test, rows(&[5.0, 6.0])),
        (RowRole::Training, wide_rows(&[0.1, 0.2, 0.3, 0.4])),
    ];
    let append = |(number, (role, rows)): (u64, (RowRole, Matrix))| {
        spool.append(&Chunk::new(number, role, &rows)).expect("appends").bytes
    };
    (1..).zip(chunks).map(append).collect()
}

#[test]
fn a_flipped_bit_in_a_chunk_of_binary64_is_found() {
    let job = OneJob::new();
    let ends = mixed(&job);
    let path = job.rows();
    let intact = std::fs::read(&path).expect("reads");
    assert_eq!(whole(&job).expect("intact").training_rows, 5);
    for index in 0..intact.len() {
        for bit in 0..8 {
            let mut flipped = intact.clone();
            flipped[index] ^= 1 << bit;
            std::fs::write(&path, &flipped).expect("writes");
            assert!(whole(&job).is_err(), "byte {index}, bit {bit}");
            match Spool::recover(&job.store, &job.id, 2) {
                Ok(spool) => {
                    let is_last = index as u64 >= ends[2];
                    assert_eq!((spool.counts().chunks, is_last), (3, true), "byte {index}, bit {bit}");
                }
                Err(error) => assert!(matches!(error, JobError::Damaged { .. }), "byte {index}: {error}"),
            }
        }
    }
}

#[test]
fn a_torn_chunk_of_binary64_is_cut_off_and_sent_again() {
    let job = OneJob::new();
    let ends = mixed(&job);
    let path = job.rows();
    let intact = std::fs::read(&path).expect("reads");
    let last = Chunk::new(4, RowRole::Training, &wide_rows(&[0.1, 0.2, 0.3, 0.4]));
    for length in ends[2]..ends[3] {
        std::fs::write(&path, &intact[..length as usize]).expect("writes");
        let mut spool = Spool::recover(&job.store, &job.id, 2).expect("recovers");
        assert_eq!(spool.counts().chunks, 3, "cut to {length} bytes");
        spool.append(&last).expect("appends");
        assert_eq!(std::fs::read(&path).expect("reads"), intact, "cut to {length} bytes");
        assert!(spool.holds(&last).expect("reads"));
        let narrow = Chunk::new(4, RowRole::Training, &rows(&[0.1, 0.2, 0.3, 0.4]));
        assert!(!spool.holds(&narrow).expect("reads"), "another form is another chunk");
    }
}

#[test]
fn narrow_formats_are_stored_as_binary32() {
    let bytes = bytes::Bytes::from_static(&[1, 2, 3, 4]);
    let small = Matrix::new(2, 2, Values::Uint8(bytes.clone())).expect("whole rows");
    let signed = Matrix::new(2, 2, Values::Int8(bytes)).expect("whole rows");
    let floats = Chunk::new(1, RowRole::Training, &rows(&[1.0, 2.0, 3.0, 4.0]));
    for other in [small, signed] {
        assert!(Chunk::new(1, RowRole::Training, &other).is_same_as(&floats));
    }
}

fn spool_of(job: &OneJob, chunks: &[(RowRole, Vec<f32>)]) -> Vec<u64> {
    let mut spool = Spool::create(&job.store, &job.id, 2).expect("creates");
    (1..)
        .zip(chunks)
        .map(|(number, (role, values))| spool.append(&Chunk::new(number, *role, &rows(values))).expect("appends").bytes)
        .collect()
}

fn three() -> Vec<(RowRole, Vec<f32>)> {
    vec![
        (RowRole::Training, vec![1.0, 2.0, 3.0, 4.0]),
        (RowRole::Test, vec![5.0, 6.0]),
        (RowRole::Training, vec![7.0, 8.0]),
    ]
}

#[test]
fn stored_chunks_are_recognized_by_content() {
    let job = OneJob::new();
    spool_of(&job, &three());
    for spool in [Spool::recover(&job.store, &job.id, 2).expect("recovers"), {
        let again = OneJob::new();
        let mut spool = Spool::create(&again.store, &again.id, 2).expect("creates");
        for (number, (role, values)) in (1..).zip(three()) {
            spool.append(&Chunk::new(number, role, &rows(&values))).expect("appends");
        }
        spool
    }] {
        for (number, (role, values)) in (1..).zip(three()) {
            assert!(spool.holds(&Chunk::new(number, role, &rows(&values))).expect("reads"), "chunk {number}");
            let other = values.iter().map(|value| value + 1.0).collect::<Vec<_>>();
            assert!(!spool.holds(&Chunk::new(number, role, &rows(&other))).expect("reads"), "chunk {number}");
        }
        let (_, values) = &three()[0];
        assert!(!spool.holds(&Chunk::new(1, RowRole::Test, &rows(values))).expect("reads"), "another role");
    }
}

/// Counts of a spool that must be whole.
fn whole(job: &OneJob) -> Result<Counts, JobError> {
    let path = job.rows();
    scan(&mut File::open(&path).expect("there"), &path, 2, Tail::IsWhole, &mut |_| ControlFlow::Continue(()))
}

#[test]
fn a_torn_tail_is_cut_off_and_the_upload_continues() {
    let job = OneJob::new();
    let ends = spool_of(&job, &three());
    let path = job.rows();
    let intact = std::fs::read(&path).expect("reads");
    for length in ends[1]..ends[2] {
        std::fs::write(&path, &intact[..length as usize]).expect("writes");
        let mut spool = Spool::recover(&job.store, &job.id, 2).expect("recovers");
        assert_eq!(spool.counts().chunks, 2, "cut to {length} bytes");
        spool.append(&Chunk::new(3, RowRole::Training, &rows(&[7.0, 8.0]))).expect("appends");
        assert_eq!(std::fs::read(&path).expect("reads"), intact, "cut to {length} bytes");
    }
}

#[test]
fn flipped_bits_are_never_read_as_rows() {
    let job = OneJob::new();
    let ends = spool_of(&job, &three());
    let path = job.rows();
    let intact = std::fs::read(&path).expect("reads");
    for index in 0..intact.len() {
        let mut flipped = intact.clone();
        flipped[index] ^= 1 << (index % 8);
        std::fs::write(&path, &flipped).expect("writes");
        assert!(whole(&job).is_err(), "byte {index}");
        // The last chunk may be torn. Earlier chunks were acknowledged and must never be dropped silently.
        match Spool::recover(&job.store, &job.id, 2) {
            Ok(spool) => assert_eq!((spool.counts().chunks, index as u64 >= ends[1]), (2, true), "byte {index}"),
            Err(error) => assert!(matches!(error, JobError::Damaged { .. }), "byte {index}: {error}"),
        }
    }
}

#[test]
fn another_width_is_refused() {
    let job = OneJob::new();
    spool_of(&job, &three());
    assert!(matches!(Spool::recover(&job.store, &job.id, 3), Err(JobError::Damaged { .. })));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), with_head in any::<bool>()) {
        let job = OneJob::new();
        let mut file = if with_head { [&MARK[..], &2u32.to_le_bytes()].concat() } else { Vec::new() };
        file.extend_from_slice(&bytes);
        std::fs::write(job.rows(), &file).expect("writes");
        let _ = whole(&job);
        let _ = Spool::recover(&job.store, &job.id, 2);
    }
}
