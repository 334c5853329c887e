//! Divides rows by the hash of keys, and numbers them.

use std::sync::Arc;

use datafusion::arrow::array::{Array as _, ArrayRef, AsArray as _, GenericByteViewArray, RecordBatch, UInt32Array};
use datafusion::arrow::compute::take_arrays;
use datafusion::arrow::datatypes::{ByteViewType, DataType, Field, Schema, SchemaRef};
use datafusion::error::Result;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::repartition::REPARTITION_RANDOM_STATE;
use raisin_rows::{hashes_of, numbers_of, places_of, rows_of_outputs};

/// The column with the place of a row among all rows that are divided.
pub const PLACE: &str = "the place of the row";

/// The column with the hash of the keys.
const HASH: &str = "the hash of the keys";

/// How rows are divided: all rows of equal keys go to one output.
#[derive(Clone, Debug)]
pub struct Division {
    pub keys: Vec<Arc<dyn PhysicalExpr>>,
    pub outputs: usize,
    /// Whether the texts of each output are in buffers of their own, for outputs that keep their rows. Otherwise, rows of
    /// several outputs share the buffers that were read, and whoever counts its memory counts all of them.
    pub has_own_texts: bool,
    /// Whether the rows get the column [`PLACE`].
    pub has_places: bool,
    /// Whether the rows get the hash of their keys, as the last column.
    pub has_hashes: bool,
}

impl Division {
    pub fn new(keys: Vec<Arc<dyn PhysicalExpr>>, outputs: usize) -> Self {
        Self { keys, outputs, has_own_texts: false, has_places: false, has_hashes: false }
    }

    /// The columns of the rows, and those that they get.
    pub fn schema(&self, of: &Schema) -> SchemaRef {
        let added = [(self.has_places, PLACE), (self.has_hashes, HASH)].into_iter().filter(|(has_it, _)| *has_it);
        let added = added.map(|(_, name)| name).map(|name| Arc::new(Field::new(name, DataType::UInt64, false)));
        let fields: Vec<_> = of.fields().iter().cloned().chain(added).collect();
        Arc::new(Schema::new_with_metadata(fields, of.metadata().clone()))
    }

    /// The rows of each output that has some. The places of the rows begin at `place`.
    pub fn divide(&self, rows: &RecordBatch, place: u64, schema: &SchemaRef) -> Result<Vec<(usize, RecordBatch)>> {
        let keys = self.keys.iter().map(|key| key.evaluate(rows)?.into_array(rows.num_rows()));
        let keys: Vec<ArrayRef> = keys.collect::<Result<_>>()?;
        let hashes = hashes_of(&keys, REPARTITION_RANDOM_STATE.random_state(), rows.num_rows())?;
        let mut divided = Vec::new();
        for (output, of) in
            rows_of_outputs(&hashes, self.outputs).into_iter().enumerate().filter(|(_, of)| !of.is_empty())
        {
            let places = self.has_places.then(|| Arc::new(places_of(&of, place)) as ArrayRef);
            let of_hashes = self.has_hashes.then(|| Arc::new(numbers_of(&of, &hashes)) as ArrayRef);
            let mut columns = if of.len() == rows.num_rows() {
                rows.columns().to_vec()
            } else {
                take_arrays(rows.columns(), &UInt32Array::from(of), None)?
            };
            columns.extend(places.into_iter().chain(of_hashes));
            let part = RecordBatch::try_new(schema.clone(), columns)?;
            divided.push((output, if self.has_own_texts { own_texts(&part)? } else { part }));
        }
        Ok(divided)
    }
}

/// The bytes of the rows. Many batches of texts share their buffers, which would count once for each batch.
pub fn bytes_of(rows: &RecordBatch) -> usize {
    fn of_views<T: ByteViewType>(views: &GenericByteViewArray<T>) -> usize {
        size_of_val(views.views().as_ref()) + views.total_buffer_bytes_used()
    }
    let of_column = |column: &ArrayRef| match column.data_type() {
        DataType::Utf8View => of_views(column.as_string_view()),
        DataType::BinaryView => of_views(column.as_binary_view()),
        _ => column.to_data().get_slice_memory_size().unwrap_or_else(|_| column.get_array_memory_size()),
    };
    rows.columns().iter().map(of_column).sum()
}

/// The rows with texts in buffers of their own, so that the buffers of all rows that were read can go.
pub fn own_texts(rows: &RecordBatch) -> Result<RecordBatch> {
    let own = |column: &ArrayRef| -> ArrayRef {
        match column.data_type() {
            DataType::Utf8View => Arc::new(column.as_string_view().gc()),
            DataType::BinaryView => Arc::new(column.as_binary_view().gc()),
            _ => column.clone(),
        }
    };
    Ok(RecordBatch::try_new(rows.schema(), rows.columns().iter().map(own).collect())?)
}
