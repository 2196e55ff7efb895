//! Rows as images: their size, and PNG data URIs.

use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::cli::CliError;

/// Shorter rows are not taken for square images.
const SQUARE_MIN: usize = 64;

/// The value of `--image`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum ImageChoice {
    /// Rows are images of this size.
    Size(ImageSize),
    /// Rows are not images.
    None,
}

/// A size in pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct ImageSize {
    pub(super) width: usize,
    pub(super) height: usize,
}

impl FromStr for ImageChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self::None);
        }
        let sides = text.split_once('x').and_then(|(width, height)| width.parse().ok().zip(height.parse().ok()));
        match sides {
            Some((width, height)) if width > 0 && height > 0 => Ok(Self::Size(ImageSize { width, height })),
            _ => Err("expected WIDTHxHEIGHT in pixels, for example 28x28, or none".to_owned()),
        }
    }
}

impl ImageChoice {
    /// Checks that rows of `columns` numbers can have this size.
    ///
    /// [`CliError::Usage`] if the size has more or fewer pixels.
    pub(super) fn check(self, columns: usize) -> Result<(), CliError> {
        let Self::Size(ImageSize { width, height }) = self else { return Ok(()) };
        let pixels = width.checked_mul(height);
        if pixels == Some(columns) {
            return Ok(());
        }
        let pixels = pixels.map_or("too many".to_owned(), |pixels| pixels.to_string());
        Err(CliError::Usage(format!(
            "--image {width}x{height} has {pixels} pixels, but rows of the model have {columns} numbers"
        )))
    }
}

/// The image size of rows of `columns` numbers; `None` if they are not images.
pub(super) fn size(choice: Option<ImageChoice>, columns: usize) -> Option<ImageSize> {
    match choice {
        Some(ImageChoice::Size(size)) => Some(size),
        Some(ImageChoice::None) => None,
        None => {
            let side = columns.isqrt();
            (columns >= SQUARE_MIN && side * side == columns).then_some(ImageSize { width: side, height: side })
        }
    }
}

/// A data URI of a PNG with gray pixels, row by row. `darkest` becomes black and `brightest` white; other values are
/// clamped.
///
/// [`CliError::Failed`] if the number of values does not match `size`.
pub(super) fn uri(values: &[f32], size: ImageSize, darkest: f32, brightest: f32) -> Result<String, CliError> {
    let span = if brightest > darkest { brightest - darkest } else { 1.0 };
    let gray = |value: &f32| (255.0 * ((value - darkest) / span).clamp(0.0, 1.0)).round() as u8;
    let pixels: Vec<u8> = values.iter().map(gray).collect();
    let failed = |error: png::EncodingError| CliError::Failed(format!("cannot encode an image: {error}"));
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, size.width as u32, size.height as u32);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.write_header().and_then(|mut writer| writer.write_image_data(&pixels)).map_err(failed)?;
    Ok(format!("data:image/png;base64,{}", STANDARD.encode(file)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_sizes_are_parsed_or_rejected() {
        assert_eq!("28x20".parse(), Ok(ImageChoice::Size(ImageSize { width: 28, height: 20 })));
        assert_eq!("none".parse(), Ok(ImageChoice::None));
        for bad in ["", "28", "28x", "x28", "0x28", "-1x2", "8 x 8", "8x8x8"] {
            let error = bad.parse::<ImageChoice>().expect_err(bad);
            assert!(error.contains("WIDTHxHEIGHT"), "{error}");
        }
    }

    #[test]
    fn a_size_that_does_not_fit_names_both_numbers() {
        let refused = |text: &str| text.parse::<ImageChoice>().expect("a size").check(64).expect_err(text).to_string();
        assert!(refused("7x9").contains("63 pixels") && refused("7x9").contains("64 numbers"));
        assert!(refused(&format!("{0}x{0}", usize::MAX)).contains("too many"));
        assert!("4x16".parse::<ImageChoice>().expect("a size").check(64).is_ok());
    }

    #[test]
    fn squares_of_at_least_64_numbers_are_images() {
        let side = |columns| size(None, columns).map(|size| (size.width, size.height));
        assert_eq!([63, 64, 65, 49, 784].map(side), [None, Some((8, 8)), None, None, Some((28, 28))]);
        assert_eq!(size(Some(ImageChoice::None), 64), None);
    }

    #[test]
    fn values_become_gray_pixels() {
        let size = ImageSize { width: 3, height: 2 };
        let uri = uri(&[-1.0, 0.0, 8.0, 16.0, 99.0, f32::NAN], size, 0.0, 16.0).expect("encodes");
        let file = STANDARD.decode(uri.strip_prefix("data:image/png;base64,").expect("a PNG")).expect("base64");
        let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().expect("a PNG");
        let mut pixels = vec![0; reader.output_buffer_size().expect("small")];
        let info = reader.next_frame(&mut pixels).expect("an image");
        assert_eq!((info.width, info.height, info.color_type), (3, 2, png::ColorType::Grayscale));
        assert_eq!(pixels, [0, 0, 128, 255, 255, 0]);
    }

    #[test]
    fn a_one_pixel_image_is_valid() {
        let size = ImageSize { width: 1, height: 1 };
        assert!(uri(&[3.0], size, 3.0, 3.0).is_ok());
        assert!(uri(&[3.0, 4.0], size, 3.0, 4.0).is_err(), "two values are not one pixel");
    }
}
