//! The event files of TensorBoard: records of protocol buffers, as TensorFlow writes them
//! (tensorflow/core/util/event.proto, framework/summary.proto, tensorboard/plugins/hparams/plugin_data.proto).
//!
//! A record consists of: the length as u64, its masked CRC-32C, the bytes, their masked CRC-32C; all little-endian.

use serde_json::{Map, Value};

use super::protocol_buffer::{Checksum, ProtocolBuffer};

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
        file.record(&event);
        file
    }

    /// Adds one number of a series.
    pub fn scalar(&mut self, tag: &str, step: i64, value: f64) {
        let mut summary = ProtocolBuffer::default();
        summary.text(1, tag);
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
                Value::String(text) => held.text(3, text),
                other => held.text(3, &other.to_string()),
            }
            let mut entry = ProtocolBuffer::default();
            entry.text(1, name);
            entry.message(2, &held);
            start.message(1, &entry);
        }
        start.double(5, WALL_TIME);
        let mut data = ProtocolBuffer::default();
        data.message(3, &start);
        let mut plugin = ProtocolBuffer::default();
        plugin.bytes(1, b"hparams");
        plugin.message(2, &data);
        let mut metadata = ProtocolBuffer::default();
        metadata.message(1, &plugin);
        // TensorBoard drops a value without a tensor: an empty one of type float.
        let mut tensor = ProtocolBuffer::default();
        tensor.integer(1, 1);
        tensor.bytes(2, &[]);
        let mut summary = ProtocolBuffer::default();
        summary.bytes(1, b"_hparams_/session_start_info");
        summary.message(8, &tensor);
        summary.message(9, &metadata);
        self.summary(0, &summary);
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Adds an event with one value of a summary.
    fn summary(&mut self, step: i64, value: &ProtocolBuffer) {
        let mut summary = ProtocolBuffer::default();
        summary.message(1, value);
        let mut event = ProtocolBuffer::default();
        event.double(1, WALL_TIME);
        event.integer(2, step);
        event.message(5, &summary);
        self.record(&event);
    }

    fn record(&mut self, message: &ProtocolBuffer) {
        let data = message.as_bytes();
        let length = (data.len() as u64).to_le_bytes();
        self.bytes.extend(length);
        self.bytes.extend(masked_checksum(&length).to_le_bytes());
        self.bytes.extend(data);
        self.bytes.extend(masked_checksum(data).to_le_bytes());
    }
}

/// The CRC-32C of the bytes, rotated and shifted as TensorFlow stores it.
fn masked_checksum(bytes: &[u8]) -> u32 {
    Checksum::Castagnoli.of(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}
