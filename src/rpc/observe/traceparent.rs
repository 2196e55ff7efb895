//! The `traceparent` of a call: W3C Trace Context, level 1.

use http::HeaderMap;
use opentelemetry::trace::{SpanId, TraceId};

/// Length of version 00. Later versions may be longer.
const LENGTH: usize = 55;

/// The trace context of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TraceParent {
    pub(super) trace_id: TraceId,
    /// The caller's span.
    pub(super) span_id: SpanId,
    /// Whether the caller is traced.
    pub(super) is_sampled: bool,
}

impl TraceParent {
    /// Parses the header. `None` if it is missing, invalid, or present more than once.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all("traceparent").iter();
        let value = values.next()?;
        if values.next().is_some() {
            return None;
        }
        Self::parse(value.as_bytes())
    }

    /// `version-trace_id-span_id-flags`, in lowercase hexadecimal digits.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (fields, rest) = bytes.split_at_checked(LENGTH)?;
        let dashes = [2, 35, 52];
        let is_well_formed = fields.iter().enumerate().all(|(place, byte)| {
            if dashes.contains(&place) { *byte == b'-' } else { matches!(byte, b'0'..=b'9' | b'a'..=b'f') }
        });
        if !is_well_formed {
            return None;
        }
        match &fields[..2] {
            b"ff" => return None,
            b"00" if !rest.is_empty() => return None,
            // Additions of later versions start with a dash.
            _ if rest.first().is_some_and(|byte| *byte != b'-') => return None,
            _ => {}
        }
        let text = str::from_utf8(fields).ok()?;
        let trace_id = TraceId::from(u128::from_str_radix(&text[3..35], 16).ok()?);
        let span_id = SpanId::from(u64::from_str_radix(&text[36..52], 16).ok()?);
        let flags = u8::from_str_radix(&text[53..55], 16).ok()?;
        let is_valid = trace_id != TraceId::INVALID && span_id != SpanId::INVALID;
        is_valid.then_some(Self { trace_id, span_id, is_sampled: flags & 1 == 1 })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn the_example_of_the_standard_is_parsed() {
        let parent = TraceParent::parse(GOOD.as_bytes()).expect("good");
        assert_eq!(parent.trace_id.to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(parent.span_id.to_string(), "b7ad6b7169203331");
        assert!(parent.is_sampled);
    }

    #[track_caller]
    fn check(text: &str, expected: bool) {
        assert_eq!(TraceParent::parse(text.as_bytes()).is_some(), expected, "{text:?}");
    }

    #[test]
    fn invalid_headers_are_ignored() {
        check("", false);
        check(&GOOD[..54], false);
        check(&GOOD.to_uppercase(), false);
        check(&GOOD.replace('-', "_"), false);
        check("00-00000000000000000000000000000000-b7ad6b7169203331-01", false);
        check("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", false);
        check("00-0af7651916cd43dd8448eb211c80319c-+7ad6b7169203331-01", false);
        check(&format!(" {GOOD}"), false);
    }

    #[test]
    fn only_later_versions_may_have_more_fields() {
        check(&format!("{GOOD}-00"), false);
        let later = GOOD.replacen("00", "cc", 1);
        check(&later, true);
        check(&format!("{later}-what-is-new"), true);
        check(&format!("{later}.what"), false);
        check(&GOOD.replacen("00", "ff", 1), false);
    }

    #[test]
    fn duplicate_headers_are_ignored() {
        let mut headers = HeaderMap::new();
        headers.append("traceparent", http::HeaderValue::from_static(GOOD));
        assert!(TraceParent::of(&headers).is_some());
        headers.append("traceparent", http::HeaderValue::from_static(GOOD));
        assert_eq!(TraceParent::of(&headers), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = TraceParent::parse(&bytes);
        }

        #[test]
        fn valid_headers_are_parsed(trace_id in 1_u128.., span_id in 1_u64.., flags: u8) {
            let text = format!("00-{trace_id:032x}-{span_id:016x}-{flags:02x}");
            let (trace_id, span_id) = (TraceId::from(trace_id), SpanId::from(span_id));
            let expected = TraceParent { trace_id, span_id, is_sampled: flags % 2 == 1 };
            prop_assert_eq!(TraceParent::parse(text.as_bytes()), Some(expected));
        }

        #[test]
        fn one_invalid_byte_invalidates_the_header(place in 0..LENGTH, byte: u8) {
            let mut bytes = GOOD.as_bytes().to_vec();
            let right = bytes[place];
            bytes[place] = byte;
            let is_digit = byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            let could_be = if right == b'-' { byte == b'-' } else { is_digit };
            prop_assert_eq!(TraceParent::parse(&bytes).is_some(), could_be && &bytes[..2] != b"ff");
        }
    }
}
