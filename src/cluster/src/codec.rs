//! Physical plans as bytes: those of ballista, and with them the functions of raisin.
//!
//! Functions travel by their names, and the operations between integers with the text that the user wrote, for errors.
//! `sum` carries a mark: a cluster that is not one of raisin cannot read it, instead of calculating sums that wrap.

use std::sync::Arc;

use ballista_core::serde::BallistaPhysicalExtensionCodec;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::logical_expr::{AggregateUDF, ScalarUDF};
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::physical_plan::{PhysicalExtensionCodec, PhysicalProtoConverterExtension};

use raisin_query::elsewhere::{function_as_written, is_checked_sum, written};

#[derive(Debug, Default)]
pub struct RaisinCodec {
    of_ballista: BallistaPhysicalExtensionCodec,
}

const CHECKED_SUM: &[u8] = b"raisin";

impl PhysicalExtensionCodec for RaisinCodec {
    fn try_decode(
        &self,
        bytes: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        context: &TaskContext,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.of_ballista.try_decode(bytes, inputs, context, converter)
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        bytes: &mut Vec<u8>,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        self.of_ballista.try_encode(node, bytes, converter)
    }

    fn try_encode_udf(&self, function: &ScalarUDF, bytes: &mut Vec<u8>) -> Result<()> {
        bytes.extend(written(function).unwrap_or_default().as_bytes());
        Ok(())
    }

    fn try_decode_udf(&self, name: &str, bytes: &[u8]) -> Result<Arc<ScalarUDF>> {
        function_as_written(name, &String::from_utf8_lossy(bytes))
    }

    fn try_encode_udaf(&self, function: &AggregateUDF, bytes: &mut Vec<u8>) -> Result<()> {
        if is_checked_sum(function) {
            bytes.extend(CHECKED_SUM);
        }
        Ok(())
    }

    fn try_decode_udaf(&self, name: &str, bytes: &[u8]) -> Result<Arc<AggregateUDF>> {
        if bytes == CHECKED_SUM {
            return Ok(raisin_query::elsewhere::checked_sum());
        }
        Err(DataFusionError::NotImplemented(format!("the aggregate `{name}` cannot be sent to a cluster")))
    }
}
