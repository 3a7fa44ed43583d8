# frozen_string_literal: true

# Measures what Ruby's side of the boundary bears: steps made up in memory, a handler that does nothing.
#
#   PROFILE=release rake compile && ruby bench/rehearse.rb [STEPS]
#
# prints one line of JSON.

$LOAD_PATH.unshift(File.expand_path("../lib", __dir__))
require "etc"
require "tasker_core"

WARM_UP = 10_000
SAMPLE_EVERY = 5_000
CONCURRENCY = 64

# Looks at the process every so many steps, once it is warm. The first steps wait for each other, so that all the
# threads are there that a worker of so many handlers ever needs.
class Meter
  Sample = Struct.new(:steps, :at, :rss_mb, :threads)

  def initialize
    @count = 0
    @samples = []
    @lock = Mutex.new
    @together = ConditionVariable.new
  end

  def step
    @lock.synchronize do
      @count += 1
      @together.wait(@lock) while @count < CONCURRENCY
      @together.broadcast if @count == CONCURRENCY
      steps = @count - WARM_UP
      @samples << sample(steps) if steps >= 0 && (steps % SAMPLE_EVERY).zero?
    end
  end

  def told
    first, last = @samples.first, @samples.last
    steps, seconds = last.steps - first.steps, last.at - first.at
    { language: "ruby", steps: steps, seconds: seconds.round(3), steps_per_s: (steps / seconds).round,
      rss_mb_start: first.rss_mb.round(2), rss_mb_end: last.rss_mb.round(2),
      mb_per_10000_steps: (slope * 10_000).round(3), threads_start: first.threads, threads_end: last.threads }
  end

  private

  def sample(steps)
    pages = File.read("/proc/self/statm").split[1].to_i
    rss_mb = pages * Etc.sysconf(Etc::SC_PAGESIZE) / (2.0**20)
    Sample.new(steps, Process.clock_gettime(Process::CLOCK_MONOTONIC), rss_mb, Dir.children("/proc/self/task").size)
  end

  # Of the line that comes nearest to all samples, by least squares.
  def slope
    count = @samples.size.to_f
    mean_x, mean_y = @samples.sum(&:steps) / count, @samples.sum(&:rss_mb) / count
    rises = @samples.sum { |each| (each.steps - mean_x) * (each.rss_mb - mean_y) }
    rises / @samples.sum { |each| (each.steps - mean_x)**2 }
  end
end

# Runs so many steps after the warm-up.
def rehearse(steps)
  meter = Meter.new
  following = TaskerCore::StepHandler::Functional.step_handler("rehearsal.next") do |context|
    meter.step
    { number: context.get_input(:number) + 1 }
  end
  registry = TaskerCore::Registry::HandlerRegistry.new
  registry.register(following)
  variables = { "TASKER__WORKER__CONCURRENCY" => CONCURRENCY.to_s }
  TaskerCore::Worker.new(registry: registry, variables: variables, rehearsal: WARM_UP + steps).wait
  meter.told
end

puts JSON.generate(rehearse(Integer(ARGV.fetch(0, 100_000)))) if $PROGRAM_NAME == __FILE__
