//! The part of a large transaction that waits in a temporary file.
//!
//! What is written are the messages as they came, each behind its length, in blocks that are one chunk when read
//! back. The file has no name: it is gone when nobody holds it, however the process ends.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use tokio::task::spawn_blocking;
use walcast_pgoutput::Decoder;

use crate::ingest::{IngestError, Relations};
use crate::transaction::{CHUNK_BYTES_MAX, CHUNK_CHANGES_MAX, Chunk};

/// Messages in a file, readable from the first one on any number of times.
#[derive(Debug)]
pub(crate) struct Spill {
    file: Arc<File>,
    blocks: Vec<Block>,
    /// The tables as the log had described them before the first message.
    relations: Relations,
}

/// Where a chunk's messages stand.
#[derive(Clone, Copy, Debug)]
struct Block {
    offset: u64,
    bytes: usize,
}

/// Writes a [`Spill`].
#[derive(Debug)]
pub(crate) struct SpillWriter {
    spill: Spill,
    /// The block that is being filled, and the changes in it.
    block: Vec<u8>,
    changes: usize,
}

/// Reads a [`Spill`].
pub(crate) struct SpillReader<'a> {
    spill: &'a Spill,
    blocks: std::slice::Iter<'a, Block>,
    relations: Relations,
    decoder: Decoder,
}

/// A place between two blocks of a [`Spill`].
#[derive(Clone, Debug)]
pub(crate) struct SpillMark {
    blocks_left: usize,
    /// The tables as the log had described them up to there.
    relations: Relations,
}

impl SpillMark {
    /// Blocks that are behind it.
    pub(crate) fn blocks_left(&self) -> usize {
        self.blocks_left
    }
}

impl SpillWriter {
    /// Makes the file.
    pub(crate) async fn create(relations: Relations) -> io::Result<Self> {
        Ok(Self::into_file(off_the_runtime(tempfile::tempfile).await?, relations))
    }

    fn into_file(file: File, relations: Relations) -> Self {
        let spill = Spill { file: Arc::new(file), blocks: Vec::new(), relations };
        SpillWriter { spill, block: Vec::new(), changes: 0 }
    }

    /// Adds a message that stands for so many changes.
    pub(crate) async fn push(&mut self, message: &Bytes, changes: usize) -> io::Result<()> {
        let length = u32::try_from(message.len()).map_err(io::Error::other)?;
        self.block.extend_from_slice(&length.to_be_bytes());
        self.block.extend_from_slice(message);
        self.changes += changes;
        if self.changes < CHUNK_CHANGES_MAX && self.block.len() < CHUNK_BYTES_MAX {
            return Ok(());
        }
        self.write_block().await
    }

    /// Everything is written.
    pub(crate) async fn finish(mut self) -> io::Result<Spill> {
        if !self.block.is_empty() {
            self.write_block().await?;
        }
        Ok(self.spill)
    }

    async fn write_block(&mut self) -> io::Result<()> {
        let offset = self.spill.blocks.last().map_or(0, |last| last.offset + last.bytes as u64);
        let block = std::mem::take(&mut self.block);
        self.spill.blocks.push(Block { offset, bytes: block.len() });
        self.changes = 0;
        let file = Arc::clone(&self.spill.file);
        self.block = off_the_runtime(move || {
            (&*file).write_all(&block)?;
            Ok(block)
        })
        .await?;
        self.block.clear();
        Ok(())
    }
}

impl Spill {
    /// The size of the file.
    pub(crate) fn bytes(&self) -> usize {
        self.blocks.iter().map(|block| block.bytes).sum()
    }

    pub(crate) fn reader(&self) -> SpillReader<'_> {
        SpillReader {
            spill: self,
            blocks: self.blocks.iter(),
            relations: self.relations.clone(),
            decoder: Decoder::new(1),
        }
    }

    /// Starts at a place where [`SpillReader::mark`] was.
    pub(crate) fn reader_at(&self, mark: &SpillMark) -> SpillReader<'_> {
        let passed = self.blocks.len().saturating_sub(mark.blocks_left);
        let blocks = self.blocks.get(passed..).unwrap_or_default().iter();
        SpillReader { blocks, relations: mark.relations.clone(), ..self.reader() }
    }
}

#[cfg(test)]
impl Spill {
    /// A spill whose file has lost its end.
    pub(crate) async fn damaged() -> Spill {
        let mut writer = SpillWriter::create(Relations::default()).await.unwrap();
        writer.push(&Bytes::from_static(b"one"), 1).await.unwrap();
        let spill = writer.finish().await.unwrap();
        spill.file.set_len(2).unwrap();
        spill
    }
}

impl SpillReader<'_> {
    /// Where it is.
    pub(crate) fn mark(&self) -> SpillMark {
        SpillMark { blocks_left: self.blocks.len(), relations: self.relations.clone() }
    }

    pub(crate) async fn next(&mut self) -> Result<Option<Chunk>, IngestError> {
        let Some(&Block { offset, bytes }) = self.blocks.next() else {
            return Ok(None);
        };
        let file = Arc::clone(&self.spill.file);
        let mut block = off_the_runtime(move || {
            let mut block = vec![0; bytes];
            (&*file).seek(SeekFrom::Start(offset))?;
            (&*file).read_exact(&mut block)?;
            Ok(Bytes::from(block))
        })
        .await
        .map_err(IngestError::Spill)?;
        let mut chunk = Chunk::default();
        while block.has_remaining() {
            let length = block.get_u32() as usize;
            let message = self.decoder.decode(block.split_to(length))?.message;
            let before = chunk.changes.len();
            self.relations.take(message, &mut chunk.changes)?;
            chunk.weigh(length, chunk.changes.len() - before);
        }
        Ok(Some(chunk))
    }
}

/// Does file work where it holds nobody up.
async fn off_the_runtime<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(work).await.unwrap_or_else(|gone| Err(io::Error::other(gone)))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_disk_is_an_error_that_says_so() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut writer = SpillWriter::into_file(full, Relations::default());
        writer.push(&Bytes::from_static(b"one"), 1).await.unwrap();
        let error = IngestError::Spill(writer.finish().await.unwrap_err()).to_string();
        assert!(error.contains("temporary file") && error.contains("No space left"), "{error}");
    }
}
