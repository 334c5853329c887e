//! The event files of TensorBoard: records of protocol buffers, as TensorFlow writes them
//! (tensorflow/core/util/event.proto, framework/summary.proto, tensorboard/plugins/hparams/plugin_data.proto).
//!
//! A record consists of: the length as u64, its masked CRC-32C, the bytes, their masked CRC-32C; all little-endian.

use serde_json::{Map, Value};

/// The time of every event. An artifact has no time: the same results give the same bytes.
const WALL_TIME: f64 = 0.0;

/// A file of events, in memory.
#[derive(Default)]
pub struct EventFile {
    bytes: Vec<u8>,
}

impl EventFile {
    /// A file that begins with the version of the format.
    pub fn new() -> Self {
        let mut file = Self::default();
        let mut event = ProtocolBuffer::default();
        event.double(1, WALL_TIME);
        event.bytes(3, b"brain.Event:2");
        file.record(&event.0);
        file
    }

    /// Adds one number of a series.
    pub fn scalar(&mut self, tag: &str, step: i64, value: f64) {
        let mut summary = ProtocolBuffer::default();
        summary.bytes(1, tag.as_bytes());
        summary.float(2, value as f32);
        self.summary(step, &summary);
    }

    /// Adds the hyperparameters of the run.
    pub fn hyperparameters(&mut self, values: &Map<String, Value>) {
        let mut start = ProtocolBuffer::default();
        for (name, value) in values {
            let mut held = ProtocolBuffer::default();
            match value {
                Value::Bool(switch) => held.integer(4, i64::from(*switch)),
                Value::Number(number) => held.double(2, number.as_f64().unwrap_or(f64::NAN)),
                Value::String(text) => held.bytes(3, text.as_bytes()),
                other => held.bytes(3, other.to_string().as_bytes()),
            }
            let mut entry = ProtocolBuffer::default();
            entry.bytes(1, name.as_bytes());
            entry.bytes(2, &held.0);
            start.bytes(1, &entry.0);
        }
        start.double(5, WALL_TIME);
        let mut data = ProtocolBuffer::default();
        data.bytes(3, &start.0);
        let mut plugin = ProtocolBuffer::default();
        plugin.bytes(1, b"hparams");
        plugin.bytes(2, &data.0);
        let mut metadata = ProtocolBuffer::default();
        metadata.bytes(1, &plugin.0);
        // TensorBoard drops a value without a tensor: an empty one of type float.
        let mut tensor = ProtocolBuffer::default();
        tensor.integer(1, 1);
        tensor.bytes(2, &[]);
        let mut summary = ProtocolBuffer::default();
        summary.bytes(1, b"_hparams_/session_start_info");
        summary.bytes(8, &tensor.0);
        summary.bytes(9, &metadata.0);
        self.summary(0, &summary);
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Adds an event with one value of a summary.
    fn summary(&mut self, step: i64, value: &ProtocolBuffer) {
        let mut summary = ProtocolBuffer::default();
        summary.bytes(1, &value.0);
        let mut event = ProtocolBuffer::default();
        event.double(1, WALL_TIME);
        event.integer(2, step);
        event.bytes(5, &summary.0);
        self.record(&event.0);
    }

    fn record(&mut self, data: &[u8]) {
        let length = (data.len() as u64).to_le_bytes();
        self.bytes.extend(length);
        self.bytes.extend(masked_checksum(&length).to_le_bytes());
        self.bytes.extend(data);
        self.bytes.extend(masked_checksum(data).to_le_bytes());
    }
}

/// A protocol buffer under construction. Each method adds a field by its number.
#[derive(Default)]
struct ProtocolBuffer(Vec<u8>);

impl ProtocolBuffer {
    fn integer(&mut self, field: u32, value: i64) {
        self.key(field, 0);
        self.varint(value as u64);
    }

    fn double(&mut self, field: u32, value: f64) {
        self.key(field, 1);
        self.0.extend(value.to_le_bytes());
    }

    /// Texts, bytes and messages.
    fn bytes(&mut self, field: u32, value: &[u8]) {
        self.key(field, 2);
        self.varint(value.len() as u64);
        self.0.extend(value);
    }

    fn float(&mut self, field: u32, value: f32) {
        self.key(field, 5);
        self.0.extend(value.to_le_bytes());
    }

    fn key(&mut self, field: u32, wire_type: u32) {
        self.varint(u64::from(field << 3 | wire_type));
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

/// The CRC-32C of the bytes, rotated and shifted as TensorFlow stores it.
fn masked_checksum(bytes: &[u8]) -> u32 {
    checksum(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), bit by bit: a file has some thousand numbers.
fn checksum(bytes: &[u8]) -> u32 {
    let mut sum = u32::MAX;
    for byte in bytes {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = if sum & 1 == 1 { sum >> 1 ^ 0x82f6_3b78 } else { sum >> 1 };
        }
    }
    !sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_standard() {
        // RFC 3720, appendix B.4.
        assert_eq!(checksum(b"123456789"), 0xe306_9283);
        assert_eq!(checksum(&[0; 32]), 0x8a91_36aa);
        assert_eq!(checksum(&[0xff; 32]), 0x62a8_ab43);
    }

    #[test]
    fn integers_have_seven_bits_in_a_byte() {
        let mut message = ProtocolBuffer::default();
        message.integer(2, 300);
        assert_eq!(message.0, [0x10, 0xac, 0x02]);
    }
}
