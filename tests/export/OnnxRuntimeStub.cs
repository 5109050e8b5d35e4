// What InspectImage.cs needs of Microsoft.ML.OnnxRuntime, with the signatures of that package. Answers come from
// reference.csv, row by row.
using System;
using System.Collections;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using System.Linq;

namespace Microsoft.ML.OnnxRuntime.Tensors
{
    public abstract class Tensor<T>
    {
        public T[] Values;
        public int[] Shape;
    }

    public class DenseTensor<T> : Tensor<T>
    {
        public DenseTensor(Memory<T> memory, ReadOnlySpan<int> dimensions, bool reverseStride = false)
        {
            Values = memory.ToArray();
            Shape = dimensions.ToArray();
        }
    }
}

namespace Microsoft.ML.OnnxRuntime
{
    using Microsoft.ML.OnnxRuntime.Tensors;

    public sealed class OrtEnv
    {
        public static OrtEnv Instance() { return new OrtEnv(); }
        public void DisableTelemetryEvents() { }
    }

    public class NodeMetadata { public int[] Dimensions { get; set; } }

    public class NamedOnnxValue
    {
        public string Name { get; set; }
        public object Value { get; set; }
        public static NamedOnnxValue CreateFromTensor<T>(string name, Tensor<T> value)
        { return new NamedOnnxValue { Name = name, Value = value }; }
        public IEnumerable<T> AsEnumerable<T>() { return (IEnumerable<T>)Value; }
    }

    public class DisposableNamedOnnxValue : NamedOnnxValue, IDisposable { public void Dispose() { } }

    public interface IDisposableReadOnlyCollection<T> : IReadOnlyCollection<T>, IDisposable { }

    public class Found : List<DisposableNamedOnnxValue>, IDisposableReadOnlyCollection<DisposableNamedOnnxValue>
    { public void Dispose() { } }

    public class InferenceSession : IDisposable
    {
        private readonly string[][] rows;
        private int next = 0;
        public InferenceSession(string model)
        {
            string folder = Path.GetDirectoryName(model);
            rows = File.ReadLines(Path.Combine(folder, "reference.csv")).Skip(1).Select(l => l.Split(',')).ToArray();
            var head = File.ReadAllBytes(Path.Combine(folder, rows[0][0])).Take(40).ToArray();
            var words = System.Text.Encoding.ASCII.GetString(head).Split('\n')[1].Split(' ');
            InputMetadata = new Dictionary<string, NodeMetadata> {
                { "image", new NodeMetadata { Dimensions = new[] { int.Parse(words[1]), int.Parse(words[0]), 3 } } } };
        }
        public IReadOnlyDictionary<string, NodeMetadata> InputMetadata { get; private set; }
        public IDisposableReadOnlyCollection<DisposableNamedOnnxValue> Run(
            IReadOnlyCollection<NamedOnnxValue> inputs, IReadOnlyCollection<string> outputNames)
        {
            var image = (Tensor<byte>)inputs.Single().Value;
            var row = rows[next++ % rows.Length];
            int count = image.Shape[0] * image.Shape[1];
            if (image.Values.Length != 3 * count) throw new ArgumentException("wrong length");
            var values = new Dictionary<string, object> {
                { "score", new[] { float.Parse(row[1], CultureInfo.InvariantCulture) } },
                { "p_value", new[] { float.Parse(row[2], CultureInfo.InvariantCulture) } },
                { "verdict", new[] { int.Parse(row[3]) } },
                { "anomaly_map", new float[count] }, { "mask", new byte[count] } };
            var found = new Found();
            foreach (var name in outputNames) found.Add(new DisposableNamedOnnxValue { Name = name, Value = values[name] });
            return found;
        }
        public void Dispose() { }
    }
}
